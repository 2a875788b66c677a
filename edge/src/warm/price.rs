//! What a second of a device costs: a decimal number and a currency, `0.0006 EUR`.
//!
//! Invariant: money is counted in millionths and rounded once, when it is told.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most of one second.
const MILLIONTHS_MAX: u64 = 1_000_000_000;
const DECIMALS: usize = 6;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Price {
    millionths: u64,
    /// ISO 4217.
    currency: String,
}

/// An amount of money, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// With two decimals, or with four where it is less than one.
    pub amount: String,
    pub currency: String,
}

impl Price {
    /// Of so much time of a device.
    #[must_use]
    pub fn of(&self, device_ms: f64) -> Cost {
        #[allow(clippy::cast_precision_loss, reason = "at most 10⁹")]
        let amount = self.millionths as f64 / 1e6 * device_ms.max(0.0) / 1e3;
        let decimals = if amount < 1.0 { 4 } else { 2 };
        Cost { amount: format!("{amount:.decimals$}"), currency: self.currency.clone() }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount, self.currency)
    }
}

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no price such as \"0.0006 EUR\"", text.chars().take(40).collect::<String>());
        let (number, currency) = text.trim().split_once(' ').ok_or_else(wrong)?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(decimals) || decimals.len() > DECIMALS {
            return Err(wrong());
        }
        let millionths: u64 = format!("{whole}{decimals:0<DECIMALS$}").parse().map_err(|_| wrong())?;
        let is_currency = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
        if !is_currency || millionths > MILLIONTHS_MAX {
            return Err(wrong());
        }
        Ok(Self { millionths, currency: currency.to_owned() })
    }
}

impl TryFrom<String> for Price {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_a_number_and_a_currency() {
        let price: Price = "0.0006 EUR".parse().unwrap();
        assert_eq!(price.of(1_000_000.0).to_string(), "0.6000 EUR");
        assert_eq!(price.of(10_000_000.0).to_string(), "6.00 EUR");
        assert_eq!("2 USD".parse::<Price>().unwrap().of(1_500.0).to_string(), "3.00 USD");
        assert_eq!("0.000001 EUR".parse::<Price>().unwrap().of(0.0).to_string(), "0.0000 EUR");
        for text in
            ["", "1", "EUR", "1 eur", "1 EURO", "-1 EUR", "1,5 EUR", "0.0000001 EUR", "1e3 EUR", ". EUR", "1001 EUR"]
        {
            assert!(text.parse::<Price>().unwrap_err().contains("no price"), "{text}");
        }
    }
}
