//! The fields of events and spans, as people read them on a terminal.

use std::error::Error;
use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{MakeVisitor, VisitFmt, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, Writer};

/// The field by which the journal is searched.
const MESSAGE_ID: &str = "message_id";

/// The usual format, but for [`MESSAGE_ID`].
pub(super) struct ForPeople;

impl<'w> MakeVisitor<Writer<'w>> for ForPeople {
    type Visitor = WithoutId<DefaultVisitor<'w>>;

    fn make_visitor(&self, target: Writer<'w>) -> Self::Visitor {
        WithoutId(DefaultFields::new().make_visitor(target))
    }
}

/// Hands on every field but that one.
pub(super) struct WithoutId<V>(V);

impl<V: Visit> Visit for WithoutId<V> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != MESSAGE_ID {
            self.0.record_debug(field, value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE_ID {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if field.name() != MESSAGE_ID {
            self.0.record_error(field, value);
        }
    }
}

impl<V: VisitOutput<fmt::Result>> VisitOutput<fmt::Result> for WithoutId<V> {
    fn finish(self) -> fmt::Result {
        self.0.finish()
    }
}

impl<V: VisitFmt> VisitFmt for WithoutId<V> {
    fn writer(&mut self) -> &mut dyn Write {
        self.0.writer()
    }
}
