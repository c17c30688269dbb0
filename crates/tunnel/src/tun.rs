//! The interface in the kernel: a TUN device, whose packets this process reads and writes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::iter;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// A device that is down is looked at again after this time.
const DOWN: Duration = Duration::from_millis(50);

/// Of linux/if_tun.h: packets of the IP layer, without a header before them, on a device that nobody else has open.
const FLAGS: u16 = 0x0001 | 0x1000 | 0x8000;

// Says which device an open `/dev/net/tun` is (`TUNSETIFF` of linux/if_tun.h).
nix::ioctl_write_ptr_bad!(set_interface, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);

/// A TUN device, which is there as long as one of its clones.
#[derive(Clone)]
pub struct Tun {
    device: Arc<AsyncFd<File>>,
    mtu: watch::Receiver<u16>,
}

impl Tun {
    /// Makes the device `name` in the network namespace of the calling thread. Its MTU is said by `mtu`.
    ///
    /// # Errors
    /// There is no `/dev/net/tun`, the name is no name or is taken, or the process may not.
    pub fn make(name: &str, mtu: watch::Receiver<u16>) -> io::Result<Self> {
        let device = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        // SAFETY: all fields of the structure are plain data, for which zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of an interface has at most 15 bytes"));
        }
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = libc::c_char::from_ne_bytes([byte]);
        }
        request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes(FLAGS.to_ne_bytes());
        // SAFETY: the request outlives the call, and the kernel reads and writes nothing beyond it.
        unsafe { set_interface(device.as_raw_fd(), &raw const request) }?;
        // SAFETY: a file's descriptor is its own, the same for life, and open until the file is dropped.
        let device = unsafe { AsyncFd::register(device) }.map_err(io::Error::from)?;
        Ok(Self { device: Arc::new(device), mtu })
    }
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let bytes = packet.into_bytes();
        loop {
            let mut ready = self.device.writable().await?;
            match ready.try_io(|device| device.get_ref().write(&bytes)) {
                // A packet that the kernel does not take (the device is down, say) is lost as on any link.
                Ok(Err(error)) if is_of_the_packet(&error) => return Ok(()),
                Ok(written) => return written.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

/// Whether the device goes on after this failure.
fn is_of_the_packet(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::ENOBUFS | libc::ENOMEM))
}

impl IpRecv for Tun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let mut packet = pool.get();
        loop {
            let mut ready = self.device.readable().await?;
            let length = match ready.try_io(|device| device.get_ref().read(&mut packet)) {
                // While the device is down there is nothing to read.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    tokio::time::sleep(DOWN).await;
                    continue;
                }
                Ok(length) => length?,
                Err(_would_block) => continue,
            };
            packet.truncate(length);
            match packet.try_into_ip() {
                Ok(packet) => return Ok(iter::once(packet)),
                // Not of the IP layer: nothing that a tunnel could carry.
                Err(_) => packet = pool.get(),
            }
        }
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}
