//! Pure. The small languages within values: ports, volumes, sizes, durations, command lines, hosts.

pub(crate) mod bytes;
pub(crate) mod command_line;
pub(crate) mod device;
pub(crate) mod duration;
pub(crate) mod host;
pub(crate) mod port;
pub(crate) mod volume;
