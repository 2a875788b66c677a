//! `/shared/…`: what people with a link ask, who have no account and no role.
//!
//! It is answered by the admin listener, because the public one shows nothing that was not decided for. A proxy that lets guests in hands
//! on this folder alone. The address is the proof: it is signed, and nothing that a browser sends by itself opens anything here, so a form
//! of a foreign page can do no more than who has the link already.

use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::body::{Fault, fault};
use super::login::{self, Form};
use super::{AdminApi, shares};
use crate::language::Language;
use crate::preview::Preview;
use crate::preview::shared::{Unsent, guarded};
use crate::service::{Body, RequestBody};
use crate::shares::{CommentError, Draft, Opened, PATH, Pin, Unseen};
use crate::words::Format;

/// What a path below the folder names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'p> {
    Page(&'p str),
    /// A picture of a link, from 1.
    Picture(&'p str, usize),
    Comments(&'p str),
}

impl<'p> Place<'p> {
    fn of(path: &'p str) -> Option<Self> {
        let rest = path.strip_prefix(PATH)?;
        match rest.split_once('/') {
            None => Some(Self::Page(rest)),
            Some((id, "comments")) => Some(Self::Comments(id)),
            Some((id, rest)) => {
                let number = rest.strip_prefix("pictures/")?;
                let is_plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
                Some(Self::Picture(id, number.parse().ok().filter(|_| is_plain)?))
            }
        }
    }

    const fn id(self) -> &'p str {
        match self {
            Self::Page(id) | Self::Picture(id, _) | Self::Comments(id) => id,
        }
    }
}

impl AdminApi {
    /// Answers a person with a link.
    pub(super) async fn guest(&self, request: Request<RequestBody>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let is_read = matches!(*head.method(), Method::GET | Method::HEAD);
        let asset = head.uri().path().strip_prefix(PATH).and_then(Preview::guest_asset);
        if let Some(asset) = asset.filter(|_| is_read) {
            return asset.respond(head.headers());
        }
        let asked = (head.headers(), head.uri().query());
        let Some(place) = Place::of(head.uri().path()) else {
            self.shares.answered("refused");
            return Preview::closed_page(asked, crate::shares::Closed::NoLink);
        };
        let takes = if matches!(place, Place::Comments(_)) { "POST" } else { "GET, HEAD" };
        if is_read == matches!(place, Place::Comments(_)) || !(is_read || *head.method() == Method::POST) {
            return guarded(super::not_allowed(head.method(), takes));
        }
        let opened = match self.shares.opened(place.id(), head.uri().query()) {
            Ok(opened) => opened,
            Err(closed) => {
                self.shares.answered("refused");
                return Preview::closed_page(asked, closed);
            }
        };
        match place {
            Place::Page(_) => {
                self.shares.answered("page");
                self.preview.guest_page(asked, &opened, None)
            }
            Place::Picture(_, number) => self.guests_picture(head.method(), &opened, number).await,
            Place::Comments(_) => self.guests_comment(&head, body, &opened).await,
        }
    }

    async fn guests_picture(&self, method: &Method, opened: &Opened, number: usize) -> Response<Body> {
        let found = match number.checked_sub(1).and_then(|at| opened.kept.share.pictures.get(at)) {
            Some(of) => self.shares.picture(of).await,
            None => Err(Unseen::NoPicture),
        };
        let unseen = match found {
            Ok(bytes) => {
                self.shares.answered("picture");
                let mut response = Response::new(Full::new(bytes));
                let fields = response.headers_mut();
                fields.insert(CONTENT_TYPE, HeaderValue::from_static(Format::Webp.media_type()));
                fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                return guarded(response);
            }
            Err(unseen) => unseen,
        };
        self.shares.answered("refused");
        let status = match unseen {
            Unseen::NoPicture => 404,
            Unseen::Gone => 410,
            Unseen::Unavailable(_) => 503,
        };
        // What went wrong behind it may name what a guest does not see.
        let detail = match &unseen {
            Unseen::Unavailable(reason) => {
                tracing::warn!(reason, share = %opened.kept.share.id, number, "a guest got no picture");
                "the picture cannot be had now: ask again".to_owned()
            }
            unseen => unseen.to_string(),
        };
        guarded(super::problem(method, &fault(status, "no-image", "No image", detail)))
    }

    /// Takes a comment, and leads back to its picture.
    async fn guests_comment(&self, head: &Request<()>, body: RequestBody, opened: &Opened) -> Response<Body> {
        let refused = |fault: &Fault, unsent: Unsent<'_>| {
            self.shares.answered("refused");
            let asked = (head.headers(), head.uri().query());
            let unsent = Unsent { why: fault.detail.clone(), ..unsent };
            let mut page = self.preview.guest_page(asked, opened, Some(&unsent));
            *page.status_mut() = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
            page
        };
        let form = match Form::read(head.headers(), body).await {
            Ok(form) => form,
            Err(fault) => return refused(&fault, Unsent::default()),
        };
        let text = |name| form.get(name).unwrap_or_default();
        let number = text("picture").parse::<usize>().ok();
        let language = Language::named(text("language"));
        let (name, written, x, y) = (text("name"), text("text"), text("x"), text("y"));
        let unsent = Unsent { language, picture: number, name, text: written, x, y, ..Unsent::default() };
        let place = number.and_then(|number| number.checked_sub(1));
        let is_shown =
            place.and_then(|at| opened.kept.share.pictures.get(at)).is_some_and(|of| self.shares.wanted(of).is_ok());
        let Some(place) = place.filter(|_| is_shown) else {
            return refused(&fault(404, "no-image", "No image", Unseen::NoPicture.to_string()), unsent);
        };
        let added = match pin(x, y).and_then(|pin| Draft::new(name, written, pin)) {
            Ok(draft) => self.shares.comment(&opened.kept.share, place, draft).await,
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            return refused(&shares::comment_fault(&error), unsent);
        }
        self.shares.answered("comment");
        let language = language.map_or_else(String::new, |language| format!("&_lang={}", language.code()));
        let share = &opened.kept.share;
        guarded(login::see_other(&format!("{PATH}{}?{}{language}#picture-{}", share.id, opened.query, place + 1)))
    }
}

/// Percentages of width and height, both or neither.
fn pin(x: &str, y: &str) -> Result<Option<Pin>, CommentError> {
    let number = |text: &str| text.trim().replace(',', ".").parse::<f64>().map_err(|_| CommentError::Pin);
    if x.trim().is_empty() && y.trim().is_empty() {
        return Ok(None);
    }
    Pin::of(number(x)? / 100.0, number(y)? / 100.0).map(Some).ok_or(CommentError::Pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_link_and_a_part_of_it() {
        assert_eq!(Place::of("/shared/ab"), Some(Place::Page("ab")));
        assert_eq!(Place::of("/shared/ab/pictures/12"), Some(Place::Picture("ab", 12)));
        assert_eq!(Place::of("/shared/ab/comments"), Some(Place::Comments("ab")));
        for path in
            ["/shared/ab/", "/shared/ab/pictures/0", "/shared/ab/pictures/01", "/shared/ab/pictures/1/2", "/preview/"]
        {
            assert_eq!(Place::of(path), None, "{path}");
        }
    }

    #[test]
    fn a_point_has_two_numbers_or_none() {
        assert_eq!(pin("", " ").unwrap(), None);
        assert_eq!(pin("50", "12,5").unwrap(), Pin::of(0.5, 0.125));
        for (x, y) in [("50", ""), ("", "1"), ("101", "1"), ("-1", "1"), ("a", "1"), ("NaN", "1"), ("inf", "1")] {
            assert!(matches!(pin(x, y), Err(CommentError::Pin)), "{x} {y}");
        }
    }
}
