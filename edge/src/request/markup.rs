//! A URL that asks for markup instead of an image:
//!
//! ```text
//! /p/{campaign}/{slot}?{axis}={value}&…[&fm={form}][&save-data=auto][&v=auto]
//! ```
//!
//! It is read as an image's URL is: names in any case and order, nothing said twice, tracking parameters dropped. Of the rendition
//! parameters it takes `fm`, `save-data`, `v` and those of a signature. Its canonical form begins with another path than that of an image, so
//! no signature of one counts for the other.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::parameters::Parameter;
use super::{
    ImageRequest, PATH_BYTES_MAX, ParameterNames, QueryWriter, RequestError, SavingAsk, Seen, Signable, SignatureAsk,
    SignatureScope, decode, encode, values,
};

/// Where paths of markup start.
pub const MARKUP_PATH_PREFIX: &str = "/p/";

/// In which form markup is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MarkupForm {
    /// A fragment with the picture.
    Html,
    /// Everything that is known of the picture's place in a page.
    Json,
    /// Structured data alone.
    JsonLd,
    /// The value of a `Link` field.
    Preload,
    /// Elements of a page's head for those who share it.
    Meta,
    /// A fragment for mail programs.
    Mail,
}

impl MarkupForm {
    pub const ALL: [Self; 6] = [Self::Html, Self::Json, Self::JsonLd, Self::Preload, Self::Meta, Self::Mail];
    /// Of a URL, beside `auto`.
    const NAMES: [&'static str; 7] = ["auto", "html", "json", "jsonld", "preload", "meta", "mail"];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Json => "json",
            Self::JsonLd => "jsonld",
            Self::Preload => "preload",
            Self::Meta => "meta",
            Self::Mail => "mail",
        }
    }

    fn parse(value: &str) -> Result<Option<Self>, RequestError> {
        if value.eq_ignore_ascii_case("auto") {
            return Ok(None);
        }
        let known = Self::ALL.into_iter().find(|form| form.as_str().eq_ignore_ascii_case(value));
        known.map(Some).ok_or_else(|| RequestError::Malformed {
            parameter: Parameter::Format.name(),
            expected: "a form of markup",
            value: super::excerpt(value),
            allowed: Cow::Borrowed(&Self::NAMES),
        })
    }
}

/// Which of a picture's URLs stand in its markup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Pinning {
    /// Those that follow every change.
    #[default]
    Open,
    /// `v=auto`: those of the current version, where there is one.
    Current,
}

/// What a URL of markup asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkupRequest<'a> {
    pub campaign: Cow<'a, str>,
    pub slot: Cow<'a, str>,
    /// As those of an [`ImageRequest`].
    pub axes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// `None`: `Accept` decides.
    pub form: Option<MarkupForm>,
    pub pinning: Pinning,
    /// Whether the URLs in it opt in to `Save-Data`.
    pub saving: SavingAsk,
    pub signature: Option<SignatureAsk<'a>>,
}

impl<'a> MarkupRequest<'a> {
    /// Reads path and query as they stand in the request line.
    ///
    /// # Errors
    /// When the path is none of markup, a bound is exceeded, or a parameter is malformed, said twice or one of images alone.
    pub fn parse(
        path: &'a str,
        query: Option<&'a str>,
        names: &(impl ParameterNames + ?Sized),
    ) -> Result<Self, RequestError> {
        let mut request = Self::parse_path(path)?;
        let mut seen = Seen::default();
        let campaign = request.campaign.clone();
        let set = |parameter, value| request.set(parameter, value, &mut seen);
        request.axes = super::read_query(query, &campaign, names, set)?;
        super::sort_axes(&mut request.axes)?;
        request.signature = seen.into_signature()?;
        Ok(request)
    }

    fn parse_path(path: &'a str) -> Result<Self, RequestError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(RequestError::TooLong { part: "path", bytes_max: PATH_BYTES_MAX });
        }
        let rest = path.strip_prefix(MARKUP_PATH_PREFIX).ok_or(RequestError::NotMarkup)?;
        let (campaign, slot) = rest.split_once('/').ok_or(RequestError::NotMarkup)?;
        if campaign.is_empty() || slot.is_empty() || slot.contains('/') {
            return Err(RequestError::NotMarkup);
        }
        let part = |text| decode::component(text).ok_or(RequestError::Encoding { part: "the path" });
        Ok(Self {
            campaign: part(campaign)?,
            slot: part(slot)?,
            axes: Vec::new(),
            form: None,
            pinning: Pinning::Open,
            saving: SavingAsk::Url,
            signature: None,
        })
    }

    fn set(&mut self, parameter: Parameter, value: Cow<'a, str>, seen: &mut Seen<'a>) -> Result<(), RequestError> {
        if !seen.first_time(parameter) {
            return Err(RequestError::Duplicate { parameter: parameter.name().to_owned() });
        }
        match parameter {
            Parameter::Format => self.form = MarkupForm::parse(&value)?,
            Parameter::Version if value.eq_ignore_ascii_case("auto") => self.pinning = Pinning::Current,
            Parameter::Version => {
                return Err(RequestError::Malformed {
                    parameter: parameter.name(),
                    expected: "`auto`: URLs of the current version",
                    value: super::excerpt(&value),
                    allowed: Cow::Borrowed(&["auto"]),
                });
            }
            Parameter::SaveData => self.saving = values::saving(&value)?,
            Parameter::KeyId => seen.key_id = Some(values::token(parameter, value)?),
            Parameter::Expires => seen.expires_s = Some(values::expires(&value)?),
            Parameter::Signature => seen.signature = Some(values::token(parameter, value)?),
            other => return Err(RequestError::OfImages { parameter: other.name() }),
        }
        Ok(())
    }

    /// The same request in its one spelling.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.spell(SignatureScope::Whole)
    }

    /// The picture's own URL, at its slot's defaults. A signature of this request is none of that.
    #[must_use]
    pub fn image_url(&self) -> String {
        let image = ImageRequest::of_slot(self.campaign.clone(), self.slot.clone());
        ImageRequest { axes: self.axes.clone(), ..image }.canonical()
    }

    fn spell(&self, scope: SignatureScope) -> String {
        let mut url = String::with_capacity(96);
        let _ = write!(url, "{MARKUP_PATH_PREFIX}{}/{}", encode(&self.campaign), encode(&self.slot));
        let mut query = QueryWriter { url: &mut url, is_first: true };
        for (name, value) in &self.axes {
            query.pair(encode(name), encode(value));
        }
        query.optional(Parameter::Format, self.form.map(MarkupForm::as_str));
        query.saving(self.saving);
        if self.pinning == Pinning::Current {
            query.pair(Parameter::Version.name(), "auto");
        }
        query.signature(self.signature.as_ref(), scope);
        url
    }
}

impl<'a> Signable<'a> for MarkupRequest<'a> {
    fn signature(&self) -> Option<&SignatureAsk<'a>> {
        self.signature.as_ref()
    }

    fn with_signature(&self, signature: SignatureAsk<'a>) -> Self {
        Self { signature: Some(signature), ..self.clone() }
    }

    fn signed_text(&self) -> String {
        self.spell(SignatureScope::Covered)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(url: &str) -> Result<MarkupRequest<'_>, RequestError> {
        let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
        MarkupRequest::parse(path, query, &|_: &str, name: &str| name.starts_with("utm_"))
    }

    #[test]
    fn it_has_one_spelling_and_names_its_picture() {
        let request = parse("/p/studio/hero?V=auto&product=mug&utm_source=x&FM=JSON&amp;colour=teal").expect("markup");
        assert_eq!((request.form, request.pinning), (Some(MarkupForm::Json), Pinning::Current));
        assert_eq!(request.canonical(), "/p/studio/hero?colour=teal&product=mug&fm=json&v=auto");
        assert_eq!(request.image_url(), "/i/studio/hero?colour=teal&product=mug");
        assert_eq!(parse("/p/studio/hero").expect("markup").canonical(), "/p/studio/hero");
        assert_eq!(parse("/p/studio/hero?fm=auto").expect("markup").form, None);
        let saving = parse("/p/studio/hero?v=auto&Save-Data=AUTO&colour=teal").expect("markup");
        assert_eq!(saving.canonical(), "/p/studio/hero?colour=teal&save-data=auto&v=auto");
        assert_eq!(saving.image_url(), "/i/studio/hero?colour=teal", "the picture itself is the same");
    }

    #[test]
    fn paths_have_two_parts_and_nothing_behind_them() {
        for path in ["/p/", "/p/studio", "/p/studio/", "/p//hero", "/p/studio/hero/", "/p/studio/hero/slug", "/i/a/b"] {
            let error = parse(path).expect_err(path);
            assert_eq!((error.status(), error.as_str()), (404, "not-markup"), "{path}");
        }
    }

    #[test]
    fn what_is_no_parameter_of_markup_is_refused_by_name() {
        let refused = |query: &str| parse(query).expect_err(query).problem();
        let width = refused("/p/studio/hero?w=640");
        assert_eq!((width.status, width.parameter.as_deref()), (400, Some("w")));
        let form = refused("/p/studio/hero?fm=avif");
        assert_eq!((form.parameter.as_deref(), form.allowed.len()), (Some("fm"), MarkupForm::NAMES.len()));
        assert_eq!(refused("/p/studio/hero?v=0123456789").allowed, ["auto"]);
        assert_eq!(refused("/p/studio/hero?fm=json&format=json").kind, "/problems/duplicate-parameter");
        assert_eq!(refused("/p/studio/hero?a=1&A=2").kind, "/problems/duplicate-parameter");
        assert_eq!(refused("/p/studio/hero?s=x").kind, "/problems/incomplete-signature");
    }

    proptest! {
        #[test]
        fn the_one_spelling_means_the_same(path in "[a-z%/2F]{0,12}", query in "[a-cfmsv=&%;?0-9]{0,40}") {
            let url = format!("/p/{path}?{query}");
            if let Ok(request) = parse(&url) {
                let canonical = request.canonical();
                prop_assert_eq!(parse(&canonical), Ok(request.clone()), "{}", canonical);
            }
        }
    }
}
