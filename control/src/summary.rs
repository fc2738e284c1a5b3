//! A frame in one line with its length, for `trace`, for `capture` without a file, and for logs.

use switch_core::wire::summary;

/// Says in one line what `frame` is, of which `len` octets were on the wire (more than `frame.len()` for a cut copy).
pub fn summarise(frame: &[u8], len: usize) -> String {
    format!("{}, {len} octets", summary(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_the_wire() {
        let mut frame = [0xff; 14];
        frame[12..].copy_from_slice(&[0x88, 0xcc]);
        assert_eq!(
            summarise(&frame, 60),
            "ff:ff:ff:ff:ff:ff > ff:ff:ff:ff:ff:ff, LLDP, 60 octets"
        );
    }
}
