//! The slow twin of the framing of stream ports, and the two played against each other: by the property tests and by the fuzzer
//! (`fuzz/src/stream.rs`).

use datapath::io::stream::framing::{BadLength, Inbox};

/// Frames of a stream, and the length that ended it.
pub type Frames = (Vec<Vec<u8>>, Option<BadLength>);

/// All octets at once, from the beginning.
pub fn frames_of(mut octets: &[u8]) -> Frames {
    let mut frames = Vec::new();
    while octets.len() >= 4 {
        let length = u32::from(octets[0]) << 24
            | u32::from(octets[1]) << 16
            | u32::from(octets[2]) << 8
            | u32::from(octets[3]);
        if length == 0 || length > 69_632 {
            return (frames, Some(BadLength(length)));
        }
        if octets.len() < 4 + length as usize {
            break;
        }
        frames.push(octets[4..4 + length as usize].to_vec());
        octets = &octets[4 + length as usize..];
    }
    (frames, None)
}

/// The same through an inbox that is filled in pieces of these sizes (none is 0), over and over.
pub fn in_pieces(mut octets: &[u8], pieces: &[usize]) -> Frames {
    let mut inbox = Inbox::default();
    let mut frames = Vec::new();
    let mut pieces = pieces.iter().cycle();
    loop {
        loop {
            assert_eq!(inbox.has_more(), !matches!(inbox.peek(), Ok(None)));
            match inbox.peek() {
                Ok(Some(frame)) => {
                    frames.push(frame.to_vec());
                    let len = frame.len();
                    inbox.take(len);
                }
                Ok(None) => break,
                Err(bad) => return (frames, Some(bad)),
            }
        }
        if octets.is_empty() {
            return (frames, None);
        }
        let room = inbox.room();
        assert!(!room.is_empty(), "a stream that goes on can be read");
        let piece = *pieces.next().expect("there is a piece, and they go round");
        let len = octets.len().min(room.len()).min(piece);
        room[..len].copy_from_slice(&octets[..len]);
        inbox.filled(len);
        octets = &octets[len..];
    }
}

/// The first eight octets are sizes of pieces, the rest a stream: taken once as it is, and once repeated until it is longer than
/// any frame.
pub fn play(octets: &[u8]) {
    let Some((sizes, stream)) = octets.split_first_chunk::<8>() else {
        return;
    };
    let pieces = sizes.map(|size| 1 + usize::from(size) * usize::from(size));
    assert_eq!(in_pieces(stream, &pieces), frames_of(stream));
    if !stream.is_empty() {
        // Long frames don't fit an input of the fuzzer.
        let long = stream.repeat(150_000 / stream.len() + 1);
        let pieces = sizes.map(|size| 1000 + 250 * usize::from(size));
        assert_eq!(in_pieces(&long, &pieces), frames_of(&long));
    }
}
