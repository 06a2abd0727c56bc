//! Query strings: typed, and explained when they are wrong. Unknown parameters are ignored.

use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::Query;
use http::Uri;

use super::error::ApiError;

/// The parameters of a query string; of several with one name the last counts.
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Takes a query string apart.
    ///
    /// # Errors
    /// 400 when it cannot be decoded.
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
        pairs
            .map(|Query(pairs)| Params(pairs))
            .map_err(|_| ApiError::invalid("the query string cannot be decoded"))
    }

    /// A parameter as it stands.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter of a type that explains itself.
    ///
    /// # Errors
    /// 400 with the type's explanation.
    pub(super) fn parsed<T>(&self, name: &str) -> Result<Option<T>, ApiError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let parse = |text: &str| {
            text.parse().map_err(|error| ApiError::invalid(format!("{name}: {error}")))
        };
        self.text(name).map(parse).transpose()
    }

    /// A whole number within a range.
    ///
    /// # Errors
    /// 400 with the range.
    pub(super) fn number(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let (low, high) = range.into_inner();
            ApiError::invalid(format!("{name}: expected a whole number from {low} to {high}"))
        })
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(ApiError::invalid(format!("{name}: expected true or false"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Status;
    use crate::http::tests::error_text;

    fn params(query: &str) -> Params {
        Params::of(&format!("/x?{query}").parse().unwrap()).unwrap()
    }

    #[test]
    fn parameters_are_typed() {
        let query = params("limit=5&flag=true&status=paused&x=%C3%A4+b&limit=7");
        assert_eq!(query.number("limit", 1..=1000).unwrap(), Some(7));
        assert_eq!(query.flag("flag").unwrap(), Some(true));
        assert_eq!(query.parsed("status").unwrap(), Some(Status::Paused));
        assert_eq!(query.text("x"), Some("ä b"));
        assert_eq!(query.number("offset", 0..=1).unwrap(), None);
    }

    #[test]
    fn wrong_ones_are_explained() {
        let query = params("limit=0&flag=yes&status=live&after=1.5");
        for (error, text) in [
            (
                query.number("limit", 1..=1000).unwrap_err(),
                "limit: expected a whole number from 1 to 1000",
            ),
            (
                query.number("after", 0..=9).unwrap_err(),
                "after: expected a whole number from 0 to 9",
            ),
            (query.flag("flag").unwrap_err(), "flag: expected true or false"),
            (
                query.parsed::<Status>("status").unwrap_err(),
                "status: must be one of starting, active, paused, stopped, ended, error",
            ),
        ] {
            assert_eq!(error_text(error), text);
        }
    }
}
