//! Families of series, and how one of their series is found: by its place, never by its name.

use std::marker::PhantomData;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Counter, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, Result,
};

use super::labels::Word;
use super::table::{Declared, Kind};

/// A family that can be declared.
pub(super) trait Family: Sized {
    /// What its numbers are.
    const KIND: Kind;

    /// Makes it, and has the registry know it.
    ///
    /// # Errors
    /// When it is declared wrongly, or another one has its name.
    fn make(declared: &Declared, registry: &Registry) -> Result<Self>;

    /// The values of the labels of all its series; none when they are not known beforehand.
    fn rows() -> Vec<&'static [&'static str]> {
        Vec::new()
    }
}

/// Makes the family that was declared next.
///
/// # Errors
/// When it is declared wrongly.
pub(super) fn next<'a, T: Family>(
    declared: &mut impl Iterator<Item = &'a Declared>,
    registry: &Registry,
) -> Result<T> {
    let missing = || prometheus::Error::Msg("a family is not declared".to_owned());
    T::make(declared.next().ok_or_else(missing)?, registry)
}

/// A series for each word. All of them are there from the beginning: a counter that comes into being with
/// its first event does not show that it has grown.
pub struct Series<W, M> {
    all: Box<[M]>,
    words: PhantomData<W>,
}

/// Counters, one for each word.
pub type Counters<W> = Series<W, IntCounter>;

/// Gauges, one for each word.
pub type Gauges<W> = Series<W, IntGauge>;

/// Histograms, one for each word.
pub type Histograms<W> = Series<W, Histogram>;

impl<W: Word, M> Series<W, M> {
    /// The series of a word.
    pub fn of(&self, word: W) -> &M {
        &self.all[word.index()]
    }

    fn rows() -> Vec<&'static [&'static str]> {
        W::ALL.iter().map(|word| word.values()).collect()
    }
}

/// Has the registry know a family, and makes all of its series.
fn series<W: Word, B: MetricVecBuilder + 'static>(
    family: MetricVec<B>,
    registry: &Registry,
) -> Result<Series<W, B::M>> {
    let each = W::ALL.iter().map(|word| family.get_metric_with_label_values(word.values()));
    let all = each.collect::<Result<_>>()?;
    known(registry, family)?;
    Ok(Series { all, words: PhantomData })
}

/// Has the registry know a family.
fn known(registry: &Registry, family: impl Collector + 'static) -> Result<()> {
    registry.register(Box::new(family))
}

fn options(declared: &Declared) -> Opts {
    Opts::new(declared.name, declared.help())
}

fn measured(declared: &Declared) -> HistogramOpts {
    HistogramOpts::new(declared.name, declared.help()).buckets(declared.traits.buckets.to_vec())
}

impl<W: Word> Family for Counters<W> {
    const KIND: Kind = Kind::Counter;

    fn make(declared: &Declared, registry: &Registry) -> Result<Self> {
        series(IntCounterVec::new(options(declared), declared.traits.labels)?, registry)
    }

    fn rows() -> Vec<&'static [&'static str]> {
        Series::<W, IntCounter>::rows()
    }
}

impl<W: Word> Family for Gauges<W> {
    const KIND: Kind = Kind::Gauge;

    fn make(declared: &Declared, registry: &Registry) -> Result<Self> {
        series(IntGaugeVec::new(options(declared), declared.traits.labels)?, registry)
    }

    fn rows() -> Vec<&'static [&'static str]> {
        Series::<W, IntGauge>::rows()
    }
}

impl<W: Word> Family for Histograms<W> {
    const KIND: Kind = Kind::Histogram;

    fn make(declared: &Declared, registry: &Registry) -> Result<Self> {
        series(HistogramVec::new(measured(declared), declared.traits.labels)?, registry)
    }

    fn rows() -> Vec<&'static [&'static str]> {
        Series::<W, Histogram>::rows()
    }
}

/// Families whose series are the same as long as the registry has a handle of them: one without labels,
/// or one whose labels have values that are known only when the program runs.
macro_rules! plain {
    ($($T:ty: $kind:ident = $make:expr;)+) => {$(
        impl Family for $T {
            const KIND: Kind = Kind::$kind;

            fn make(declared: &Declared, registry: &Registry) -> Result<Self> {
                let make: fn(&Declared) -> Result<$T> = $make;
                let family = make(declared)?;
                known(registry, family.clone())?;
                Ok(family)
            }
        }
    )+};
}

plain! {
    Counter: Counter = |declared| Counter::with_opts(options(declared));
    IntCounter: Counter = |declared| IntCounter::with_opts(options(declared));
    IntGauge: Gauge = |declared| IntGauge::with_opts(options(declared));
    Histogram: Histogram = |declared| Histogram::with_opts(measured(declared));
    GaugeVec: Gauge = |declared| GaugeVec::new(options(declared), declared.traits.labels);
    IntGaugeVec: Gauge = |declared| IntGaugeVec::new(options(declared), declared.traits.labels);
    IntCounterVec: Counter = |declared| {
        IntCounterVec::new(options(declared), declared.traits.labels)
    };
    HistogramVec: Histogram = |declared| {
        HistogramVec::new(measured(declared), declared.traits.labels)
    };
}
