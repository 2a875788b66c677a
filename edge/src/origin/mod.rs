//! Regions of GPU nodes: client, health, deadlines and the sidecar.
