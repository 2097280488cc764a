//! A client whose changes go out without waiting for each other, until the server is gone.

use std::io;

use tests::killed::{BLOCK_BYTES, Change, Medium};

use crate::raw_client::{CMD_FLUSH, CMD_WRITE, CMD_WRITE_ZEROES, Client, FLAG_FUA, request};

impl Medium for Client {
    fn change(&mut self, changes: &[Change], durable: bool) -> io::Result<()> {
        let flags = if durable { FLAG_FUA } else { 0 };
        let len = u32::try_from(BLOCK_BYTES).unwrap();
        let mut bytes = Vec::new();
        for Change { offset, data } in changes {
            let command = data.as_ref().map_or(CMD_WRITE_ZEROES, |_| CMD_WRITE);
            bytes.extend(request(command, flags, *offset, len));
            bytes.extend(data.iter().flatten());
        }
        self.try_send(&bytes)?;
        changes.iter().try_for_each(|_| answer(self))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.try_send(&request(CMD_FLUSH, 0, 0, 0))?;
        answer(self)
    }
}

fn answer(client: &mut Client) -> io::Result<()> {
    match client.try_simple_reply()? {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error.cast_signed())),
    }
}
