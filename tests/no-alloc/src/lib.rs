//! The core's entry as a C library, whose allocator is a symbol that nobody defines: if any code
//! reachable from the entry could allocate, this would not link.
//!
//! It proves what is reachable from [`keyfold_handle`], on the platform below; not the enclave
//! binary around it, which uses std. The panic handler ends in a loop, so paths that panic count as
//! reachable too.
#![no_std]

#[cfg(feature = "one-vec")]
extern crate alloc;

use core::alloc::{GlobalAlloc, Layout};

use keyfold_protocol::host::KeyWrap;
use keyfold_protocol::limits::{FRAME, REPORT};
use keyfold_trusted::{Core, Platform, PlatformError, RELEASE_MODULUS, RootKey};

unsafe extern "C" {
    /// Defined nowhere: a reference to it is a link error.
    fn keyfold_the_core_reached_the_allocator() -> *mut u8;
}

struct Undefined;

#[global_allocator]
static ALLOCATOR: Undefined = Undefined;

// SAFETY: never runs, because it never links.
unsafe impl GlobalAlloc for Undefined {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        unsafe { keyfold_the_core_reached_the_allocator() }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        unsafe { keyfold_the_core_reached_the_allocator() };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// A platform as an embedder in C would bring it. Each function returns 0 when it has done its
/// work.
#[repr(C)]
pub struct Hooks {
    random: unsafe extern "C" fn(bytes: *mut u8, length: usize) -> i32,
    report: unsafe extern "C" fn(data: *const u8, report: *mut u8) -> i32,
    release_key: unsafe extern "C" fn(modulus: *mut u8) -> i32,
    unwrap_root: unsafe extern "C" fn(
        algorithm: i32,
        wrapped: *const u8,
        length: usize,
        root: *mut u8,
    ) -> i32,
}

fn done(status: i32) -> Result<(), PlatformError> {
    if status == 0 { Ok(()) } else { Err(PlatformError) }
}

impl Platform for Hooks {
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), PlatformError> {
        done(unsafe { (self.random)(bytes.as_mut_ptr(), bytes.len()) })
    }

    fn report(&mut self, report_data: &[u8; 64]) -> Result<[u8; REPORT], PlatformError> {
        let mut report = [0; REPORT];
        let status = unsafe { (self.report)(report_data.as_ptr(), report.as_mut_ptr()) };
        done(status).map(|()| report)
    }

    fn release_key(&mut self) -> Result<[u8; RELEASE_MODULUS], PlatformError> {
        let mut modulus = [0; RELEASE_MODULUS];
        let status = unsafe { (self.release_key)(modulus.as_mut_ptr()) };
        done(status).map(|()| modulus)
    }

    fn unwrap_root(
        &mut self, algorithm: KeyWrap, wrapped: &[u8],
    ) -> Result<RootKey, PlatformError> {
        let algorithm = match algorithm {
            KeyWrap::Sha1 => 1,
            KeyWrap::Sha256 => 256,
            KeyWrap::Sha384 => 384,
        };
        let mut root = [0; 32];
        let (wrapped, length) = (wrapped.as_ptr(), wrapped.len());
        let status = unsafe { (self.unwrap_root)(algorithm, wrapped, length, root.as_mut_ptr()) };
        done(status).map(|()| RootKey::new(root))
    }
}

static mut CORE: Option<Core<Hooks>> = None;

/// Gives the core its platform. Once, before the first frame.
///
/// # Safety
/// No other call may run meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keyfold_start(hooks: Hooks) {
    // SAFETY: the caller's promise.
    unsafe { (&raw mut CORE).write(Some(Core::new(hooks))) };
}

/// Answers one frame; the length of the reply.
///
/// # Safety
/// `frame` is `length` readable bytes, `out` is writable and as long as the largest frame, and no
/// other call may run meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keyfold_handle(
    frame: *const u8, length: usize, out: *mut [u8; FRAME],
) -> usize {
    #[cfg(feature = "one-vec")]
    let frame = {
        let copy = unsafe { core::slice::from_raw_parts(frame, length) }.to_vec();
        alloc::vec::Vec::leak(copy).as_ptr()
    };
    let core = &raw mut CORE;
    // SAFETY: the caller's promises.
    let (core, frame, out) =
        unsafe { (&mut *core, core::slice::from_raw_parts(frame, length), &mut *out) };
    core.as_mut().map_or(0, |core| core.handle(frame, out))
}
