//! Rendition keys, the memory and disk tiers, masters, bindings and single flight.
