//! What a generated image says of itself: XMP and IPTC now, C2PA later.

/// The statements embedded in every rendition of a campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Marking {
    pub creator: Option<String>,
    pub credit: Option<String>,
    pub copyright: Option<String>,
    /// URL of the licence (XMP `xmpRights:WebStatement`).
    pub license: Option<String>,
}
