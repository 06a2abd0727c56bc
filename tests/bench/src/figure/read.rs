//! How fast a large file is read.

use std::fs::File;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Result, ensure};
use ash_journey::Ash;
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::files::Fill;
use crate::memory::{self, Memory};
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "A file of 100 MB over HTTP",
    how: "GET /api/sessions/:id/files/PATH of a file in the workspace of a session, read into a buffer \
          of 256 KiB by one client, its connection included; against a thread of the benchmark that \
          reads the same file in pieces of 256 KiB and writes them to a connection on loopback, which \
          the same client reads. Both take turns; the file is in memory. The memory is the most that \
          ashd has had (VmHWM) while it was read.",
    measure,
};

/// What is read at once.
const PIECE: usize = 256 * 1024;

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let bytes = scale.of(100_000_000);
    let session = stage::filled_session(&ash, Fill { files: 1, bytes: bytes * 5 })?;
    let path = format!("/api/sessions/{session}/files/d0/e0/f0");
    let file = stage::workspace(&ash, &session)?.join("d0/e0/f0");
    memory::forget_peak(ash.pid()?)?;
    let (mut through, mut plain) = (Times::default(), Times::default());
    for round in 0..scale.of(50) * 2 {
        if round % 2 == 0 {
            through_ashd(&ash, (&path, bytes), &mut through)?;
            copy(&file, bytes, &mut plain)?;
        } else {
            copy(&file, bytes, &mut plain)?;
            through_ashd(&ash, (&path, bytes), &mut through)?;
        }
    }
    let peak = Memory::peak_of(ash.pid()?)?;
    ash.finish()?;
    let speed = 100.0 * plain.quantile(0.5) / through.quantile(0.5);
    let rows = vec![
        Row::plain("speed of a plain copy", through.n(), Unit::Percent, speed).floor(80.0),
        Row::times("through ashd", &through),
        Row::times("a plain copy", &plain),
        Row::plain("memory of ashd", 1, Unit::Mb, peak).floor(30.0),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

fn through_ashd(ash: &Ash, (path, bytes): (&str, usize), times: &mut Times) -> Result<()> {
    let begin = monotonic_ns();
    let (status, _, mut body) = ash.api().open("GET", path, None)?.body()?;
    ensure!(status == 200, "{status} instead of a file");
    ensure!(drain(&mut body)? == bytes, "the file is not whole");
    times.add(begin, monotonic_ns());
    Ok(())
}

fn copy(file: &Path, bytes: usize, times: &mut Times) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let begin = monotonic_ns();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || serve(&listener, file));
        ensure!(drain(&mut TcpStream::connect(address)?)? == bytes, "the copy is not whole");
        server.join().map_err(|_| anyhow::anyhow!("the thread that writes is gone"))?
    })?;
    times.add(begin, monotonic_ns());
    Ok(())
}

fn serve(listener: &TcpListener, file: &Path) -> Result<()> {
    let (mut connection, _) = listener.accept()?;
    let mut file = File::open(file)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            read => connection.write_all(&piece[..read])?,
        }
    }
}

fn drain(from: &mut impl Read) -> Result<usize> {
    let (mut piece, mut all) = (vec![0; PIECE], 0);
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(all),
            read => all += read,
        }
    }
}
