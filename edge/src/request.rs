//! A URL into an [`ImageRequest`]: parsed, bounded, canonical.
//!
//! ```text
//! /i/{campaign}/{slot}[/{slug}[.{ext}]]?{axis}={value}&…&{rendition parameters}
//! ```
//!
//! - Parameter names are case-insensitive and have the aliases of [`parameters`]; their order never matters; a
//!   parameter said twice, under any of its aliases, is refused; tracking parameters are dropped unread, unless the
//!   campaign has an axis of that name.
//! - `&amp;` between parameters, as in a URL copied from HTML source, is read as `&`: a name loses `amp;` at its start,
//!   and nothing else is taken for HTML. The canonical form never holds it, so a signature covers the URL as it was meant.
//! - Percent-encoding (RFC 3986 §2.1) is strict: a lone `%`, invalid UTF-8 and control characters are refused.
//!   `+` is a plus: this is no form.
//! - A second `?` is that of a sender who appended parameters without looking: it is dropped at the start of a name, and with
//!   the tracking parameter behind it at the end of a value.
//! - A rendition parameter at its default is the same as none, so that [`ImageRequest::canonical`] has one
//!   spelling per request. Which axes and values exist is the catalogue's business, not this module's.
//! - The slug is for people and search engines and no part of the canonical form. Its extension is an explicit `fm` if it
//!   is that of an image; one of a format that is not served is refused, because the answer would not be what the URL
//!   says. Any other text after a dot belongs to the slug: `mug-2.0`, `st.-petersburg-mug`.

mod decode;
mod error;
pub mod hints;
mod ignored;
mod markup;
pub mod parameters;
mod priority;
pub mod save_data;
mod target;
mod values;

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use error::RequestError;
pub(crate) use error::excerpt;
pub use hints::ClientHints;
pub use ignored::{IgnoredParameters, IgnoredParametersError, ParameterNames};
pub use markup::{MARKUP_PATH_PREFIX, MarkupForm, MarkupRequest, Pinning};
pub use priority::PRIORITY;
pub(crate) use priority::requested_urgency;
pub use save_data::{DataUse, SavingAsk};
pub use target::Target;
pub(crate) use target::after_host;
pub(crate) use values::is_token;
pub use values::{Background, Crop, Dpr, Fit, FocalCoordinate, FormatAsk, Horizontal, QualityAsk, Vertical, WidthAsk};

use crate::words::{Format, Ratio};
use parameters::Parameter;

/// Longest path, in bytes as sent.
pub const PATH_BYTES_MAX: usize = 1024;
/// Longest query, in bytes as sent.
pub const QUERY_BYTES_MAX: usize = 4096;
/// Most parameters, dropped ones included.
pub const PARAMETERS_MAX: usize = 64;
/// Where image paths start.
pub const IMAGE_PATH_PREFIX: &str = "/i/";
/// Longest slug.
const SLUG_BYTES_MAX: usize = 255;
/// Extensions of images that this edge does not make.
const FOREIGN_EXTENSIONS: [&str; 18] = [
    "gif", "svg", "svgz", "apng", "bmp", "tif", "tiff", "heic", "heif", "jxl", "jp2", "jpe", "jfif", "pjpg", "pjpeg",
    "ico", "psd", "eps",
];

/// What stays as it is in a canonical query (RFC 3986's unreserved characters).
const QUERY_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a URL asks for, as far as the URL alone can tell. Borrows from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRequest<'a> {
    pub campaign: Cow<'a, str>,
    pub slot: Cow<'a, str>,
    /// For people; never part of a key.
    pub slug: Option<Cow<'a, str>>,
    /// Every parameter that is none of the rendition, sorted by name, names in lower case and unique.
    pub axes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub width: Option<WidthAsk>,
    pub height_px: Option<u32>,
    pub dpr: Dpr,
    pub ratio: Option<Ratio>,
    pub fit: Fit,
    pub crop: Crop,
    pub focal_x: Option<FocalCoordinate>,
    pub focal_y: Option<FocalCoordinate>,
    pub format: FormatAsk,
    pub quality: QualityAsk,
    pub saving: SavingAsk,
    pub background: Option<Background>,
    /// `v`: answered like none unless it is current.
    pub version: Option<Cow<'a, str>>,
    pub signature: Option<SignatureAsk<'a>>,
}

/// `kid`, `expires` and `s` as sent; nothing is verified yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SignatureAsk<'a> {
    pub key_id: Cow<'a, str>,
    /// Seconds since 1970.
    pub expires_s: Option<u64>,
    pub signature: Cow<'a, str>,
}

/// Names of axes and their values, as sent.
type AskedAxes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Reads a query pair by pair: `set` takes a parameter that has a meaning here, a name that is not ignored is an axis's.
fn read_query<'a>(
    query: Option<&'a str>,
    campaign: &str,
    names: &(impl ParameterNames + ?Sized),
    mut set: impl FnMut(Parameter, Cow<'a, str>) -> Result<(), RequestError>,
) -> Result<AskedAxes<'a>, RequestError> {
    let query = query.unwrap_or_default();
    if query.len() > QUERY_BYTES_MAX {
        return Err(RequestError::TooLong { part: "query", bytes_max: QUERY_BYTES_MAX });
    }
    let mut axes = Vec::new();
    for (index, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if index == PARAMETERS_MAX {
            return Err(RequestError::TooManyParameters);
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = parameter_name(name).ok_or(RequestError::Encoding { part: "a parameter's name" })?;
        let value = without_second_query(value, |name| names.is_ignored(campaign, name));
        if name.is_empty() && value.is_empty() {
            continue;
        }
        if let Some(parameter) = parameters::lookup(&name) {
            let value = decode::component(value).ok_or(RequestError::Encoding { part: parameter.name() })?;
            set(parameter, value)?;
        } else if !names.is_ignored(campaign, &name) {
            let value = decode::component(value).ok_or_else(|| RequestError::axis_encoding(&name))?;
            axes.push((name, value));
        }
    }
    Ok(axes)
}

impl<'a> ImageRequest<'a> {
    /// Reads path and query as they stand in the request line.
    ///
    /// # Errors
    /// When the path is none of an image, a bound is exceeded, or a parameter is malformed or said twice.
    pub fn parse(
        path: &'a str,
        query: Option<&'a str>,
        names: &(impl ParameterNames + ?Sized),
    ) -> Result<Self, RequestError> {
        let mut request = Self::parse_path(path)?;
        let mut seen = Seen::default();
        let campaign = request.campaign.clone();
        let set = |parameter, value| request.set(parameter, value, &mut seen);
        request.axes = read_query(query, &campaign, names, set)?;
        request.finish(seen)
    }

    fn parse_path(path: &'a str) -> Result<Self, RequestError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(RequestError::TooLong { part: "path", bytes_max: PATH_BYTES_MAX });
        }
        let rest = path.strip_prefix(IMAGE_PATH_PREFIX).ok_or(RequestError::NotAnImage)?;
        let mut segments = rest.split('/');
        let mut segment =
            || segments.next().map(|text| decode::component(text).ok_or(RequestError::Encoding { part: "the path" }));
        let campaign = segment().transpose()?.filter(|text| !text.is_empty()).ok_or(RequestError::NotAnImage)?;
        let slot = segment().transpose()?.filter(|text| !text.is_empty()).ok_or(RequestError::NotAnImage)?;
        let slug = segment().transpose()?.filter(|text| !text.is_empty());
        if segments.next().is_some() || slug.as_ref().is_some_and(|slug| slug.len() > SLUG_BYTES_MAX) {
            return Err(RequestError::NotAnImage);
        }
        let mut request = Self::of_slot(campaign, slot);
        if let Some((_, extension)) = slug.as_ref().and_then(|slug| slug.rsplit_once('.')) {
            if let Some(format) = Format::from_name(extension) {
                request.format = FormatAsk::Explicit(format);
            } else if FOREIGN_EXTENSIONS.iter().any(|foreign| foreign.eq_ignore_ascii_case(extension)) {
                return Err(values::malformed(Parameter::Format, extension));
            }
        }
        request.slug = slug;
        Ok(request)
    }

    /// A request for a slot's defaults.
    #[must_use]
    pub const fn of_slot(campaign: Cow<'a, str>, slot: Cow<'a, str>) -> Self {
        Self {
            campaign,
            slot,
            slug: None,
            axes: Vec::new(),
            width: None,
            height_px: None,
            dpr: Dpr::ONE,
            ratio: None,
            fit: Fit::Cover,
            crop: Crop::Center,
            focal_x: None,
            focal_y: None,
            format: FormatAsk::Auto,
            quality: QualityAsk::Auto,
            saving: SavingAsk::Url,
            background: None,
            version: None,
            signature: None,
        }
    }

    fn set(&mut self, parameter: Parameter, value: Cow<'a, str>, seen: &mut Seen<'a>) -> Result<(), RequestError> {
        if !seen.first_time(parameter) {
            return Err(RequestError::Duplicate { parameter: parameter.name().to_owned() });
        }
        match parameter {
            Parameter::Width => self.width = Some(values::width(&value)?),
            Parameter::Height => self.height_px = Some(values::height(&value)?),
            Parameter::Dpr => self.dpr = values::dpr(&value)?,
            Parameter::AspectRatio => self.ratio = Some(values::ratio(&value)?),
            Parameter::Fit => self.fit = values::fit(&value)?,
            Parameter::Crop => self.crop = values::crop(&value)?,
            Parameter::FocalX => self.focal_x = Some(values::focal(parameter, &value)?),
            Parameter::FocalY => self.focal_y = Some(values::focal(parameter, &value)?),
            Parameter::Format => seen.format = values::format(&value)?,
            Parameter::Quality => self.quality = values::quality(&value)?,
            Parameter::SaveData => self.saving = values::saving(&value)?,
            Parameter::Background => self.background = Some(values::background(&value)?),
            Parameter::Metadata => values::metadata(&value)?,
            Parameter::Auto => values::auto(&value)?,
            Parameter::Version => self.version = Some(values::token(parameter, value)?),
            Parameter::KeyId => seen.key_id = Some(values::token(parameter, value)?),
            Parameter::Expires => seen.expires_s = Some(values::expires(&value)?),
            Parameter::Signature => seen.signature = Some(values::token(parameter, value)?),
        }
        Ok(())
    }

    fn finish(mut self, seen: Seen<'a>) -> Result<Self, RequestError> {
        sort_axes(&mut self.axes)?;
        self.format = match (self.format, seen.format) {
            (FormatAsk::Explicit(extension), FormatAsk::Explicit(asked)) if extension != asked => {
                return Err(RequestError::FormatConflict { extension, asked });
            }
            (FormatAsk::Auto, asked) => asked,
            (extension, _) => extension,
        };
        self.signature = seen.into_signature()?;
        Ok(self)
    }

    /// The same request in its one spelling: axes by name, then rendition parameters in the order of
    /// [`parameters::Parameter`], defaults left out, no slug. Parsing it gives this request back, less the slug.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.spell(None, SignatureScope::Whole)
    }

    /// [`Self::canonical`] with the slug, as people pass URLs on.
    #[must_use]
    pub fn canonical_with_slug(&self) -> String {
        self.spell(self.slug.as_deref(), SignatureScope::Whole)
    }

    /// Whether the answer depends on the client's hints.
    #[must_use]
    pub const fn uses_hints(&self) -> bool {
        matches!(self.width, Some(WidthAsk::Auto))
    }

    /// Whether it depends on the client's `Save-Data`.
    #[must_use]
    pub const fn may_save_data(&self) -> bool {
        matches!(self.saving, SavingAsk::Client)
    }

    fn spell(&self, slug: Option<&str>, scope: SignatureScope) -> String {
        let mut url = String::with_capacity(96);
        let _ = write!(url, "{IMAGE_PATH_PREFIX}{}/{}", encode(&self.campaign), encode(&self.slot));
        if let Some(slug) = slug {
            let _ = write!(url, "/{}", encode(slug));
        }
        let mut query = QueryWriter { url: &mut url, is_first: true };
        for (name, value) in &self.axes {
            query.pair(encode(name), encode(value));
        }
        self.write_shape(&mut query);
        match self.format {
            FormatAsk::Auto => {}
            FormatAsk::Explicit(format) => query.pair(Parameter::Format.name(), format.extension()),
        }
        if self.quality != QualityAsk::Auto {
            query.pair(Parameter::Quality.name(), self.quality);
        }
        query.saving(self.saving);
        query.optional(Parameter::Background, self.background);
        query.optional(Parameter::Version, self.version.as_deref());
        query.signature(self.signature.as_ref(), scope);
        url
    }

    fn write_shape(&self, query: &mut QueryWriter<'_>) {
        query.optional(Parameter::Width, self.width);
        query.optional(Parameter::Height, self.height_px);
        if self.dpr != Dpr::ONE {
            query.pair(Parameter::Dpr.name(), self.dpr);
        }
        query.optional(Parameter::AspectRatio, self.ratio);
        if self.fit != Fit::Cover {
            query.pair(Parameter::Fit.name(), self.fit.as_str());
        }
        if self.crop != Crop::Center {
            query.pair(Parameter::Crop.name(), self.crop);
        }
        query.optional(Parameter::FocalX, self.focal_x);
        query.optional(Parameter::FocalY, self.focal_y);
    }

    /// The first parameter that shapes the picture otherwise than a slot of this ratio does by itself.
    #[must_use]
    pub fn reshaping_parameter(&self, slot_ratio: Ratio) -> Option<Parameter> {
        let reshaping = [
            (self.height_px.is_some(), Parameter::Height),
            (self.ratio.is_some_and(|ratio| ratio != slot_ratio), Parameter::AspectRatio),
            // A rung that does not enlarge the master is what `crop` asks for too; see `Slot::snap_within`.
            (!matches!(self.fit, Fit::Cover | Fit::Crop), Parameter::Fit),
            (self.crop != Crop::Center, Parameter::Crop),
            (self.focal_x.is_some(), Parameter::FocalX),
            (self.focal_y.is_some(), Parameter::FocalY),
            (self.background.is_some(), Parameter::Background),
        ];
        reshaping.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, parameter)| parameter)
    }
}

/// A URL that a key may vouch for.
pub trait Signable<'a>: Sized {
    fn signature(&self) -> Option<&SignatureAsk<'a>>;

    /// The same with another signature, or its first.
    #[must_use]
    fn with_signature(&self, signature: SignatureAsk<'a>) -> Self;

    /// What a signature covers: the one spelling without `s`, which stands last.
    fn signed_text(&self) -> String;
}

impl<'a> Signable<'a> for ImageRequest<'a> {
    fn signature(&self) -> Option<&SignatureAsk<'a>> {
        self.signature.as_ref()
    }

    fn with_signature(&self, signature: SignatureAsk<'a>) -> Self {
        Self { signature: Some(signature), ..self.clone() }
    }

    fn signed_text(&self) -> String {
        self.spell(None, SignatureScope::Covered)
    }
}

/// By name, each said once.
fn sort_axes(axes: &mut [(Cow<'_, str>, Cow<'_, str>)]) -> Result<(), RequestError> {
    axes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    match axes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(twice) => Err(RequestError::Duplicate { parameter: error::excerpt(&twice[0].0) }),
        None => Ok(()),
    }
}

/// How much of a signature is spelt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignatureScope {
    Whole,
    /// `kid` and `expires`: what it covers itself.
    Covered,
}

/// What was said so far: a bit per parameter, and what is put together at the end.
#[derive(Debug, Default)]
struct Seen<'a> {
    bits: u32,
    format: FormatAsk,
    key_id: Option<Cow<'a, str>>,
    expires_s: Option<u64>,
    signature: Option<Cow<'a, str>>,
}

impl<'a> Seen<'a> {
    /// The signature, which is whole or not there.
    fn into_signature(self) -> Result<Option<SignatureAsk<'a>>, RequestError> {
        match (self.key_id, self.signature) {
            (Some(key_id), Some(signature)) => Ok(Some(SignatureAsk { key_id, expires_s: self.expires_s, signature })),
            (None, None) if self.expires_s.is_none() => Ok(None),
            (None, _) => Err(RequestError::IncompleteSignature { missing: "kid" }),
            (_, None) => Err(RequestError::IncompleteSignature { missing: "s" }),
        }
    }

    const fn first_time(&mut self, parameter: Parameter) -> bool {
        let bit = 1 << parameter as u32;
        let is_first = self.bits & bit == 0;
        self.bits |= bit;
        is_first
    }
}

struct QueryWriter<'u> {
    url: &'u mut String,
    is_first: bool,
}

impl QueryWriter<'_> {
    fn pair(&mut self, name: impl std::fmt::Display, value: impl std::fmt::Display) {
        let separator = if self.is_first { '?' } else { '&' };
        self.is_first = false;
        // Writing to a String cannot fail.
        let _ = write!(self.url, "{separator}{name}={value}");
    }

    fn signature(&mut self, signature: Option<&SignatureAsk<'_>>, scope: SignatureScope) {
        let Some(signature) = signature else { return };
        self.pair(Parameter::KeyId.name(), &signature.key_id);
        self.optional(Parameter::Expires, signature.expires_s);
        if scope == SignatureScope::Whole {
            self.pair(Parameter::Signature.name(), &signature.signature);
        }
    }

    fn saving(&mut self, saving: SavingAsk) {
        if saving == SavingAsk::Client {
            self.pair(Parameter::SaveData.name(), "auto");
        }
    }

    fn optional(&mut self, parameter: Parameter, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.pair(parameter.name(), value);
        }
    }
}

/// The name that stands in front of a parameter's `=`, as [`ImageRequest::parse`] reads it. The log reads it here, too: what
/// is taken for a signature is what is kept out of a line.
pub(crate) fn parameter_name(name: &str) -> Option<Cow<'_, str>> {
    read_name(name.trim_start_matches('?'))
}

/// A parameter's name, decoded and in lower case; `None` where it cannot be decoded.
fn read_name(name: &str) -> Option<Cow<'_, str>> {
    decode::component(name).map(decode::lower_case).map(without_html)
}

/// A value without the `?utm_source=…` of a sender who did not see that the URL had a query already.
fn without_second_query(value: &str, is_ignored: impl Fn(&str) -> bool) -> &str {
    let Some((head, tail)) = value.split_once('?') else { return value };
    let name = tail.split('=').next().unwrap_or_default();
    if read_name(name).is_some_and(|name| parameters::lookup(&name).is_none() && is_ignored(&name)) {
        head
    } else {
        value
    }
}

/// A name without the rest of an `&amp;`, which is said twice where HTML was escaped twice.
fn without_html(name: Cow<'_, str>) -> Cow<'_, str> {
    const REST: &str = "amp;";
    match name {
        Cow::Borrowed(name) => Cow::Borrowed(name.trim_start_matches(REST)),
        Cow::Owned(name) if name.starts_with(REST) => Cow::Owned(name.trim_start_matches(REST).to_owned()),
        name @ Cow::Owned(_) => name,
    }
}

fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, QUERY_SET)
}

#[cfg(test)]
mod tests;
