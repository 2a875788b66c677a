//! Rendition parameters by every name they have: short names as most image CDNs use them, and the usual aliases.

/// A rendition parameter. The order is that of canonical URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parameter {
    Width,
    Height,
    Dpr,
    AspectRatio,
    Fit,
    Crop,
    FocalX,
    FocalY,
    Format,
    Quality,
    SaveData,
    Background,
    Metadata,
    /// imgix's `auto=format,compress` and `auto=true`: what this edge does anyway.
    Auto,
    Version,
    KeyId,
    Expires,
    Signature,
}

impl Parameter {
    /// The canonical name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Width => "w",
            Self::Height => "h",
            Self::Dpr => "dpr",
            Self::AspectRatio => "ar",
            Self::Fit => "fit",
            Self::Crop => "crop",
            Self::FocalX => "fp-x",
            Self::FocalY => "fp-y",
            Self::Format => "fm",
            Self::Quality => "q",
            Self::SaveData => "save-data",
            Self::Background => "bg",
            Self::Metadata => "metadata",
            Self::Auto => "auto",
            Self::Version => "v",
            Self::KeyId => "kid",
            Self::Expires => "expires",
            Self::Signature => "s",
        }
    }
}

/// Parameters any unsigned URL of a slot may carry, beside the axes.
pub const UNSIGNED: [&str; 8] = ["w", "dpr", "fm", "q", "save-data", "metadata", "auto", "v"];

/// Parameters that a URL of markup may carry, beside the axes and a signature.
pub const OF_MARKUP: [&str; 3] = ["fm", "save-data", "v"];

/// The table of names: what is looked up is what is listed, so that no alias can be forgotten where names collide.
macro_rules! names {
    ($($($name:literal)|+ => $parameter:ident,)+) => {
        /// Every name and alias, in lower case.
        pub const NAMES: &[&str] = &[$($($name),+),+];

        /// The parameter of a lower-case name or alias.
        #[must_use]
        pub fn lookup(name: &str) -> Option<Parameter> {
            Some(match name {
                $($($name)|+ => Parameter::$parameter,)+
                _ => return None,
            })
        }
    };
}

names! {
    "w" | "width" => Width,
    "h" | "height" => Height,
    "dpr" => Dpr,
    "ar" | "aspect_ratio" => AspectRatio,
    "fit" | "mode" => Fit,
    "crop" | "gravity" | "g" => Crop,
    "fp-x" | "fpx" => FocalX,
    "fp-y" | "fpy" => FocalY,
    "fm" | "f" | "format" | "output" => Format,
    "q" | "quality" => Quality,
    "save-data" => SaveData,
    "bg" => Background,
    "metadata" => Metadata,
    "auto" => Auto,
    "v" => Version,
    "kid" => KeyId,
    "expires" => Expires,
    "s" => Signature,
}

/// The canonical name of a parameter that a name, in any case, would be taken for.
#[must_use]
pub fn canonical_name(name: &str) -> Option<&'static str> {
    lookup(&name.to_ascii_lowercase()).map(Parameter::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_table_is_known() {
        for (names, canonical) in [
            (&["w", "width", "WIDTH"][..], "w"),
            (&["h", "height"], "h"),
            (&["ar", "aspect_ratio"], "ar"),
            (&["fit", "mode"], "fit"),
            (&["crop", "gravity", "g"], "crop"),
            (&["fp-x", "fpx"], "fp-x"),
            (&["fm", "f", "format", "output"], "fm"),
            (&["q", "quality"], "q"),
            (&["kid"], "kid"),
            (&["expires"], "expires"),
            (&["s"], "s"),
            (&["v"], "v"),
        ] {
            for name in names {
                assert_eq!(canonical_name(name), Some(canonical), "{name}");
            }
        }
        assert_eq!(canonical_name("colour"), None);
    }
}
