//! The page that a variant stands on: its address, and what it is about, in the variant's locale.

use serde_json::{Map, Value, json};

use crate::campaign::{ArticleData, Campaign, PageData, ProductData, Slot};

/// What the manifest says of a variant's page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The first of the slot's kinds of pages.
    pub address: Option<String>,
    pub about: Option<About>,
}

/// What the page is about, with its texts filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Product {
        name: String,
        description: Option<String>,
        brand: Option<String>,
        sku: Option<String>,
    },
    Article {
        headline: String,
        description: Option<String>,
        /// Name, and address of a page about the author.
        author: Option<(String, Option<String>)>,
        publisher: Option<String>,
        date_published: Option<String>,
    },
}

impl Page {
    pub(super) fn of(campaign: &Campaign, slot: &Slot, values: &[usize]) -> Self {
        let address = slot.markup.pages.first().map(|page| page.address(&campaign.axes, values));
        Self { address, about: slot.markup.page_data.as_ref().and_then(|data| About::of(data, campaign, values)) }
    }

    /// What stands in the head of the page for those who share it: title and description.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.about.as_ref().map(|about| match about {
            About::Product { name, .. } => name.as_str(),
            About::Article { headline, .. } => headline.as_str(),
        })
    }

    #[must_use]
    pub fn description(&self) -> Option<&str> {
        match self.about.as_ref()? {
            About::Product { description, .. } | About::Article { description, .. } => description.as_deref(),
        }
    }
}

impl About {
    /// `None` where a text is missing, which a valid manifest rules out.
    fn of(data: &PageData, campaign: &Campaign, values: &[usize]) -> Option<Self> {
        Some(match data {
            PageData::Product(ProductData { name, description, brand, sku }) => Self::Product {
                name: campaign.worded(name, values)?,
                description: campaign.worded(description, values),
                brand: brand.clone(),
                sku: sku.as_ref().map(|sku| sku.of(&campaign.axes, values)),
            },
            PageData::Article(ArticleData { headline, description, author, publisher, date_published }) => {
                Self::Article {
                    headline: campaign.worded(headline, values)?,
                    description: campaign.worded(description, values),
                    author: author.as_ref().map(|author| (author.name.clone(), author.url.clone())),
                    publisher: publisher.clone(),
                    date_published: date_published.clone(),
                }
            }
        })
    }

    /// As schema.org has it, with the picture in it.
    pub(super) fn around(&self, image: Value, address: Option<&str>, locale: &str) -> Map<String, Value> {
        let mut data = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                data.insert(name.to_owned(), value);
            }
        };
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        match self {
            Self::Product { name, description, brand, sku } => {
                put("@type", Some("Product".into()));
                put("name", Some(name.as_str().into()));
                put("description", text(description));
                put("brand", brand.as_ref().map(|brand| json!({ "@type": "Brand", "name": brand })));
                put("sku", text(sku));
                put("url", address.map(Value::from));
            }
            Self::Article { headline, description, author, publisher, date_published } => {
                let written_by = author.as_ref().map(|(name, url)| match url {
                    Some(url) => json!({ "@type": "Person", "name": name, "url": url }),
                    None => json!({ "@type": "Person", "name": name }),
                });
                put("@type", Some("Article".into()));
                put("headline", Some(headline.as_str().into()));
                put("description", text(description));
                put("author", written_by);
                put("publisher", publisher.as_ref().map(|name| json!({ "@type": "Organization", "name": name })));
                put("datePublished", text(date_published));
                put("inLanguage", Some(locale.into()));
                put("mainEntityOfPage", address.map(Value::from));
            }
        }
        put("image", Some(image));
        data
    }
}
