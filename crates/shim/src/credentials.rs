//! What the calling thread may do, and as whom it makes files.

use std::io;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The calling thread's permitted capabilities.
///
/// # Errors
/// When the kernel refuses.
pub fn permitted_capabilities() -> io::Result<u64> {
    let mut header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
    let mut data = [CapabilityData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 of the interface reads a header and writes two data structures.
    checked(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Sets the calling thread's capabilities.
///
/// # Errors
/// When the kernel refuses.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let half = |set: u64, high: bool| u32::try_from(if high { set >> 32 } else { set & 0xffff_ffff }).unwrap_or(0);
    let mut header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
    let data = [false, true].map(|high| CapabilityData {
        effective: half(effective, high),
        permitted: half(permitted, high),
        inheritable: half(inheritable, high),
    });
    // SAFETY: version 3 of the interface reads a header and two data structures.
    checked(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

/// Files that this thread makes belong to these ids. What it may do stays as it is, which the kernel would take otherwise.
///
/// # Errors
/// When the kernel refuses.
pub fn make_files_as(uid: u32, gid: u32) -> io::Result<()> {
    let permitted = permitted_capabilities()?;
    // SAFETY: no pointers. Both calls return the id before, not whether it was changed.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        // An id that cannot be changes nothing, and returns what is in force.
        let (now_uid, now_gid) = (libc::syscall(libc::SYS_setfsuid, -1), libc::syscall(libc::SYS_setfsgid, -1));
        if (now_uid, now_gid) != (libc::c_long::from(uid), libc::c_long::from(gid)) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
    }
    set_capabilities(permitted, permitted, 0)
}
