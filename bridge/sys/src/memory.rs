//! How the allocator keeps memory.

use std::io;

/// Lets all threads share so many arenas of the allocator. By default there are eight for each
/// processor (mallopt(3), `M_ARENA_MAX`), and what a thread has freed stays in its own: a daemon with
/// many threads that come and go then holds several times what it needs. To be called before there
/// are threads.
///
/// # Errors
/// When the C library refuses.
#[cfg(target_env = "gnu")]
pub fn limit_arenas(most: usize) -> io::Result<()> {
    let most = libc::c_int::try_from(most).map_err(io::Error::other)?;
    // SAFETY: mallopt takes two numbers and no pointers.
    match unsafe { libc::mallopt(libc::M_ARENA_MAX, most) } {
        1 => Ok(()),
        _ => Err(io::Error::other("the C library keeps its arenas")),
    }
}

/// Other C libraries have no such arenas.
///
/// # Errors
/// None.
#[cfg(not(target_env = "gnu"))]
pub fn limit_arenas(_most: usize) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_arenas_is_taken() {
        limit_arenas(2).unwrap();
        assert!(limit_arenas(usize::MAX).is_err());
    }
}
