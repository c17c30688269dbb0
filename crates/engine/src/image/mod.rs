//! Images: from a registry, from an archive, or from a root file system, to records that containers start from.

pub mod tar_reader;
pub mod unpack;
