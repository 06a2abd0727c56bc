//! One declaration of all families: their names, types, labels, and what they say.

/// Families that belong together, for the reference.
pub(super) struct Group {
    /// The heading.
    pub(super) title: &'static str,
    /// Its families.
    pub(super) families: &'static [Declared],
}

/// A family of series that have their name in common.
pub(super) struct Declared {
    /// Its name.
    pub(super) name: &'static str,
    /// What it says, one line for each line of the comment.
    pub(super) about: &'static str,
    /// What its numbers are.
    pub(super) kind: Kind,
    /// The values that its labels have together, one row for each series; none when they are not known
    /// beforehand.
    pub(super) rows: fn() -> Vec<&'static [&'static str]>,
    /// What else is to be known of it.
    pub(super) traits: Traits,
}

/// What most families do without.
pub(super) struct Traits {
    /// What its numbers are in, when they are no counts.
    pub(super) unit: &'static str,
    /// The names of its labels.
    pub(super) labels: &'static [&'static str],
    /// The upper bounds of its buckets; for histograms.
    pub(super) buckets: &'static [f64],
}

impl Traits {
    /// None of it.
    pub(super) const NONE: Traits = Traits { unit: "", labels: &[], buckets: &[] };
}

/// What numbers are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// They only grow.
    Counter,
    /// They are as things are.
    Gauge,
    /// How many of what was measured were how large.
    Histogram,
}

impl Kind {
    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

impl Declared {
    /// What it says, as one line.
    pub(super) fn help(&self) -> String {
        self.about.lines().map(str::trim).collect::<Vec<_>>().join(" ")
    }
}

/// Declares all families. From each come a field of [`Metrics`](super::Metrics), the way to make it,
/// and its place in the reference.
macro_rules! families {
    ($(
        $title:literal {$(
            $(#[doc = $doc:literal])+
            $field:ident: $T:ty = $name:literal { $($traits:tt)* }
        )+}
    )+) => {
        /// What is counted and measured.
        pub struct Metrics {
            /// Knows all of them.
            pub(super) registry: Registry,
            /// Held by who tells how things are now, so that two that ask at a time do not count twice.
            pub(super) telling: Mutex<()>,
            $($($(#[doc = $doc])+ pub $field: $T,)+)+
        }

        /// Makes all families, in the order of [`GROUPS`].
        pub(super) fn declare() -> prometheus::Result<Metrics> {
            let registry = Registry::new();
            let mut all = GROUPS.iter().flat_map(|group| group.families);
            Ok(Metrics {
                $($($field: next(&mut all, &registry)?,)+)+
                registry,
                telling: Mutex::new(()),
            })
        }

        /// Every family.
        #[expect(clippy::needless_update, reason = "a family may name all of its traits")]
        pub(super) const GROUPS: &[Group] = &[
            $(Group {
                title: $title,
                families: &[
                    $(Declared {
                        name: $name,
                        about: concat!($($doc, "\n"),+),
                        kind: <$T as Family>::KIND,
                        rows: <$T as Family>::rows,
                        traits: Traits { $($traits)* ..Traits::NONE },
                    },)+
                ],
            },)+
        ];
    };
}
pub(super) use families;
