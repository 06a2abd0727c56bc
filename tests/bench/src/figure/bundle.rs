//! How a whole workspace comes out and in.

use std::io::Read as _;

use anyhow::{Result, ensure};
use ash_journey::Ash;
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::files::USUAL;
use crate::memory::{self, Memory};
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "A workspace of 200 MB in 2,000 files as one archive over HTTP",
    how: "GET /api/sessions/:id/workspace, read to its end, and POST of the same archive to the same \
          session, whose sandbox lives; these take turns, connections included. The memory is the most \
          that ashd has had (VmHWM) meanwhile, of each direction the first time.",
    measure,
};

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let session = stage::filled_session(&ash, scale.fill(USUAL))?;
    let path = format!("/api/sessions/{session}/workspace");
    let (mut down, mut up) = (Times::default(), Times::default());
    let archive = fetch(&ash, &path, &mut down)?;
    let peaks = [
        peak(&ash, || fetch(&ash, &path, &mut down).map(drop))?,
        peak(&ash, || put(&ash, &path, &archive, &mut up))?,
    ];
    for _ in 1..scale.of(20) {
        fetch(&ash, &path, &mut down)?;
        put(&ash, &path, &archive, &mut up)?;
    }
    ash.finish()?;
    let rows = vec![
        Row::plain("memory of ashd, out", 1, Unit::Mb, peaks[0]).floor(30.0),
        Row::plain("memory of ashd, in", 1, Unit::Mb, peaks[1]).floor(30.0),
        Row::times("out", &down),
        Row::times("in", &up),
    ];
    let size = format!("The archive has {:.0} MB", archive.len() as f64 / 1e6);
    Ok(Outcome { rows, notes: vec![size] })
}

/// The most memory that ashd has while something is done.
fn peak(ash: &Ash, act: impl FnOnce() -> Result<()>) -> Result<f64> {
    memory::forget_peak(ash.pid()?)?;
    act()?;
    Memory::peak_of(ash.pid()?)
}

fn fetch(ash: &Ash, path: &str, times: &mut Times) -> Result<Vec<u8>> {
    let begin = monotonic_ns();
    let (status, _, mut body) = ash.api().open("GET", path, None)?.body()?;
    ensure!(status == 200, "{status} instead of an archive");
    let mut archive = vec![];
    body.read_to_end(&mut archive)?;
    times.add(begin, monotonic_ns());
    Ok(archive)
}

fn put(ash: &Ash, path: &str, archive: &[u8], times: &mut Times) -> Result<()> {
    let api = ash.api();
    let length = archive.len();
    let mut request = api.head("POST", path).into_bytes();
    let fields = format!("content-type: application/gzip\r\ncontent-length: {length}\r\n\r\n");
    request.extend(fields.as_bytes());
    request.extend(archive);
    let begin = monotonic_ns();
    api.raw(&request)?.answer()?.expect(200)?;
    times.add(begin, monotonic_ns());
    Ok(())
}
