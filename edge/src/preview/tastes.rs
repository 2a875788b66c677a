//! How a reader wants pages: in which language, on which ground pictures lie, and what is opened behind a decision.
//!
//! A link of the header names a taste in its query; a cookie remembers it. It says nothing of a person and changes nothing but looks.

use http::header::{COOKIE, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderValue, Response};

use crate::language::Language;
use crate::service::Body;

/// Names of parameters of pages begin so, and no axis does.
const LANGUAGE: &str = "_lang";
const GROUND: &str = "_ground";
const ADVANCE: &str = "_advance";
const LANGUAGE_COOKIE: &str = "bildkante-language";
const GROUND_COOKIE: &str = "bildkante-ground";
const ADVANCE_COOKIE: &str = "bildkante-advance";
/// A year.
const COOKIE_S: u32 = 31_536_000;

/// What pictures lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Ground {
    /// As the reader's system has it.
    #[default]
    System,
    Light,
    Dark,
    /// Middle grey, beside which colours are judged.
    Neutral,
}

impl Ground {
    pub(super) const ALL: [Self; 4] = [Self::System, Self::Light, Self::Dark, Self::Neutral];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
            Self::Neutral => "neutral",
        }
    }

    pub(super) const fn words(self, language: Language) -> &'static str {
        match self {
            Self::System => language.say("System", "System"),
            Self::Light => language.say("Light", "Hell"),
            Self::Dark => language.say("Dark", "Dunkel"),
            Self::Neutral => language.say("Neutral", "Neutral"),
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ground| ground.as_str() == name)
    }
}

/// Where a decision opens the next picture that awaits the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Advance {
    /// Where the picture was opened from the queue.
    #[default]
    InQueue,
    Always,
    Never,
}

impl Advance {
    pub(super) const ALL: [Self; 3] = [Self::InQueue, Self::Always, Self::Never];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::InQueue => "queue",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    pub(super) const fn words(self, language: Language) -> &'static str {
        match self {
            Self::InQueue => {
                language.say("Open the next one, in the queue", "In der Liste „Für mich“ das nächste öffnen")
            }
            Self::Always => language.say("Always open the next one", "Immer das nächste öffnen"),
            Self::Never => language.say("Stay with the picture", "Beim Bild bleiben"),
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|advance| advance.as_str() == name)
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tastes {
    pub(crate) language: Language,
    pub(super) ground: Ground,
    pub(super) advance: Advance,
}

impl Tastes {
    /// What the query names, else what a cookie remembers, else what the browser prefers.
    pub(crate) fn of(query: Option<&str>, headers: &HeaderMap) -> Self {
        let named = Named::of(query);
        let remembered = || Language::named(&cookie(headers, LANGUAGE_COOKIE)?);
        let language = named.language.or_else(remembered).unwrap_or_else(|| Language::of(None, headers));
        let ground = named.ground.or_else(|| Ground::named(&cookie(headers, GROUND_COOKIE)?)).unwrap_or_default();
        let advance = named.advance.or_else(|| Advance::named(&cookie(headers, ADVANCE_COOKIE)?)).unwrap_or_default();
        Self { language, ground, advance }
    }

    pub(super) const fn say(self, english: &'static str, german: &'static str) -> &'static str {
        self.language.say(english, german)
    }

    /// The address of the same page in another language.
    pub(super) fn in_language(here: &str, language: Language) -> String {
        with(here, LANGUAGE, language.code())
    }

    /// The address of the same page on another ground.
    pub(super) fn on_ground(here: &str, ground: Ground) -> String {
        with(here, GROUND, ground.as_str())
    }

    /// The address of the same page, from which decisions lead elsewhere.
    pub(super) fn advancing(here: &str, advance: Advance) -> String {
        with(here, ADVANCE, advance.as_str())
    }
}

/// What the query of a page names.
struct Named {
    language: Option<Language>,
    ground: Option<Ground>,
    advance: Option<Advance>,
}

impl Named {
    fn of(query: Option<&str>) -> Self {
        let find = |name: &str| {
            let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
        };
        Self {
            language: find(LANGUAGE).and_then(Language::named),
            ground: find(GROUND).and_then(Ground::named),
            advance: find(ADVANCE).and_then(Advance::named),
        }
    }
}

/// Remembers what the query named, and says what the page depends on.
pub(super) fn remember(response: &mut Response<Body>, query: Option<&str>) {
    let Named { language, ground, advance } = Named::of(query);
    let cookies = [
        language.map(|language| (LANGUAGE_COOKIE, language.code())),
        ground.map(|ground| (GROUND_COOKIE, ground.as_str())),
        advance.map(|advance| (ADVANCE_COOKIE, advance.as_str())),
    ];
    for (name, value) in cookies.into_iter().flatten() {
        let cookie = format!("{name}={value}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Lax");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Language, Cookie"));
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let fields = headers.get_all(COOKIE).into_iter().filter_map(|field| field.to_str().ok());
    let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

/// A path and query with one parameter set.
fn with(here: &str, name: &str, value: &str) -> String {
    let (path, query) = here.split_once('?').unwrap_or((here, ""));
    let is_other = |pair: &&str| !pair.is_empty() && pair.split_once('=').map_or(*pair, |(key, _)| key) != name;
    let mut kept: Vec<&str> = query.split('&').filter(is_other).collect();
    let named = format!("{name}={value}");
    kept.push(&named);
    format!("{path}?{}", kept.join("&"))
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT_LANGUAGE;

    use super::*;

    #[test]
    fn the_query_wins_over_the_cookie_and_the_cookie_over_the_browser() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("de"));
        assert_eq!(
            Tastes::of(None, &headers),
            Tastes { language: Language::German, ground: Ground::System, advance: Advance::InQueue }
        );
        headers.insert(
            COOKIE,
            HeaderValue::from_static("a=b; bildkante-language=en; bildkante-ground=dark; bildkante-advance=never"),
        );
        assert_eq!(
            Tastes::of(None, &headers),
            Tastes { language: Language::English, ground: Ground::Dark, advance: Advance::Never }
        );
        let named = Tastes::of(Some("x=1&_lang=de&_ground=neutral&_advance=always"), &headers);
        assert_eq!(named, Tastes { language: Language::German, ground: Ground::Neutral, advance: Advance::Always });
        let unknown = Tastes::of(Some("_lang=xx&_ground=&_advance=x"), &headers);
        assert_eq!(unknown, Tastes { language: Language::English, ground: Ground::Dark, advance: Advance::Never });
    }

    #[test]
    fn a_link_names_one_taste_and_keeps_the_rest() {
        let here = "/preview/studio/hero?colour=teal&_lang=en&_page=2";
        assert_eq!(Tastes::in_language(here, Language::German), "/preview/studio/hero?colour=teal&_page=2&_lang=de");
        assert_eq!(Tastes::on_ground("/preview/", Ground::Dark), "/preview/?_ground=dark");
    }

    #[test]
    fn only_what_was_named_is_remembered() {
        let mut response = Response::new(Body::default());
        remember(&mut response, Some("colour=teal"));
        assert!(response.headers().get(SET_COOKIE).is_none());
        remember(&mut response, Some("_lang=de"));
        let cookies: Vec<_> = response.headers().get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies.len(), 1);
        assert!(cookies[0].to_str().unwrap().starts_with("bildkante-language=de;"));
    }
}
