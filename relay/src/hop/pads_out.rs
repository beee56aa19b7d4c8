//! Spans of blocks this end lends for the relay: the sender's side of a link, without I/O.
//! Enter through [`PadsOut`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use km_core::{
    ids::LinkId,
    material::ClearBytes,
    pad::{Pad, PadUse},
    provenance::Grade,
};

use super::{
    cipher::HopKey,
    message::{MAX_PIECES, Piece, TAG_KEY},
};

/// First and longest span, in bytes; the length doubles from one to the next while they are used up.
const FIRST_SPAN: u16 = 2048;
const LONGEST_SPAN: u16 = 65_472;
/// Most spans to lend at once.
const MOST_AT_ONCE: usize = 3;
/// Spans nobody took from for this long are given up; what is left of them is burned.
pub const IDLE: Duration = Duration::from_secs(10);
/// A batch that comes so soon after another is one of many.
const FOLLOWS: Duration = Duration::from_secs(1);

struct Span {
    pad: Pad,
    cursor: u16,
    pad_used: u16,
    tag_used: u16,
}

impl Span {
    fn left(&self) -> u16 {
        self.pad.span.len - self.cursor
    }

    fn used(&self) -> PadUse {
        PadUse { span: self.pad.span, pad: self.pad_used, tag: self.tag_used }
    }
}

/// Bytes taken for one batch: the key of its tag first.
pub struct Taken {
    /// Where they were.
    pub pieces: Vec<Piece>,
    /// The bytes.
    pub bytes: ClearBytes,
    /// The lowest grade among their blocks.
    pub grade: Grade,
    /// The QKD link of the first of them; see [`PadsOut::take_alike`].
    pub link: Option<LinkId>,
}

/// Spans lent over one connection, and the hop key taken from them.
pub struct PadsOut {
    spans: VecDeque<Span>,
    through: Vec<PadUse>,
    hop_key: Option<(Piece, HopKey)>,
    want: u16,
    used: Instant,
    taken: Option<Instant>,
}

impl PadsOut {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        let (spans, through) = (VecDeque::new(), Vec::new());
        Self { spans, through, hop_key: None, want: FIRST_SPAN, used: now, taken: None }
    }

    /// Adds a span that is durable at both ends.
    pub fn add(&mut self, pad: Pad) {
        self.spans.push_back(Span { pad, cursor: 0, pad_used: 0, tag_used: 0 });
    }

    /// How long the spans to lend next, so that there are `need` bytes at once; at most
    /// [`MOST_AT_ONCE`].
    pub fn next_spans(&mut self, need: usize) -> Vec<u16> {
        let mut missing = need.saturating_sub(self.available());
        let mut lengths = Vec::new();
        while missing > 0 && lengths.len() < MOST_AT_ONCE {
            let len = self.next_len(missing);
            missing = missing.saturating_sub(usize::from(len));
            lengths.push(len);
        }
        lengths
    }

    fn next_len(&mut self, missing: usize) -> u16 {
        let asked = usize::from(self.want).max(missing).min(usize::from(LONGEST_SPAN));
        self.want = self.want.saturating_mul(2).min(LONGEST_SPAN);
        asked as u16
    }

    /// Somebody still waits for more: not idle.
    pub fn touch(&mut self, now: Instant) {
        self.used = now;
    }

    /// Whether something was taken a moment ago.
    pub fn is_in_use(&self, now: Instant) -> bool {
        self.taken.is_some_and(|taken| now.saturating_duration_since(taken) < FOLLOWS)
    }

    /// Bytes not taken yet.
    pub fn available(&self) -> usize {
        self.spans.iter().map(|span| usize::from(span.left())).sum()
    }

    /// Takes the key of a tag and `len` bytes more; `None` when there are fewer, or they are in too
    /// many pieces.
    pub fn take(&mut self, len: usize, now: Instant) -> Option<Taken> {
        let total = TAG_KEY + len;
        let enough = self.available() >= total && self.pieces_for(total) <= MAX_PIECES;
        enough.then(|| self.cut(TAG_KEY, len, now))
    }

    /// As [`PadsOut::take`], but all bytes came over one QKD link, which goes by [`Taken::link`]. Where
    /// another link took over, fewer than `len` bytes come; fewer than `least` are given up.
    pub fn take_alike(&mut self, len: usize, least: usize, now: Instant) -> Option<Taken> {
        loop {
            let first = self.spans.front()?.pad.link.clone();
            let alike = self.spans.iter().take_while(|span| span.pad.link == first);
            let (count, bytes) =
                alike.fold((0, 0), |(n, sum), span| (n + 1, sum + usize::from(span.left())));
            let all = count == self.spans.len();
            if all || bytes >= TAG_KEY + least.min(len) {
                let len = if all { len } else { len.min(bytes - TAG_KEY) };
                return self.take(len, now);
            }
            self.through.extend(self.spans.drain(..count).map(|span| span.used()));
        }
    }

    fn pieces_for(&self, total: usize) -> usize {
        let mut sum = 0;
        let lefts = self.spans.iter().map(|span| usize::from(span.left()));
        1 + lefts
            .take_while(|left| {
                sum += left;
                sum < total
            })
            .count()
    }

    /// There are enough bytes.
    fn cut(&mut self, tag: usize, pad: usize, now: Instant) -> Taken {
        (self.used, self.taken) = (now, Some(now));
        let (mut pieces, mut grade) = (Vec::new(), Grade::ItsRelay);
        let link = self.spans.front().and_then(|span| span.pad.link.clone());
        let mut bytes = Vec::with_capacity(tag + pad);
        let (mut tag_left, mut left) = (tag, tag + pad);
        while left > 0 {
            let Some(span) = self.spans.front_mut() else { break };
            let len = usize::from(span.left()).min(left);
            let range = usize::from(span.cursor)..usize::from(span.cursor) + len;
            span.pad.bytes.expose(|all| bytes.extend_from_slice(&all[range.clone()]));
            span.pad.bytes.wipe(range);
            let as_tag = len.min(tag_left);
            pieces.push(Piece { span: span.pad.span.id, at: span.cursor, len: len as u16 });
            span.cursor += len as u16;
            span.tag_used += as_tag as u16;
            span.pad_used += (len - as_tag) as u16;
            grade = grade.min(span.pad.grade);
            tag_left -= as_tag;
            left -= len;
            if span.left() == 0 {
                self.through.push(span.used());
                self.spans.pop_front();
            }
        }
        Taken { pieces, bytes: ClearBytes::from_vec(bytes), grade, link }
    }

    /// Whether the hop key in use serves for another frame.
    pub fn has_hop_key(&self) -> bool {
        self.hop_key.as_ref().is_some_and(|(_, key)| key.next().is_some())
    }

    /// The hop key in use and where it is; a fresh one is taken when the last has served. `None`
    /// when the spans have no 32 bytes in one piece.
    pub fn hop_key(&mut self, now: Instant) -> Option<(Piece, &mut HopKey)> {
        if !self.has_hop_key() {
            // A key is never in two pieces.
            while let Some(span) = self.spans.front().filter(|span| span.left() < 32) {
                self.through.push(span.used());
                self.spans.pop_front();
            }
            self.spans.front()?;
            let taken = self.cut(0, 32, now);
            let piece = *taken.pieces.first()?;
            self.hop_key = Some((piece, HopKey::new(&taken.bytes)?));
        }
        self.used = now;
        self.hop_key.as_mut().map(|(piece, key)| (*piece, key))
    }

    /// What became of spans that are through since this was last asked.
    pub fn take_through(&mut self) -> Vec<PadUse> {
        std::mem::take(&mut self.through)
    }

    /// Gives up everything when nobody took from it lately.
    pub fn end_idle(&mut self, now: Instant) {
        if now.duration_since(self.used) > IDLE {
            self.end();
        }
    }

    /// Gives up everything: the connection is gone.
    pub fn end(&mut self) {
        self.hop_key = None;
        self.want = FIRST_SPAN;
        self.through.extend(self.spans.drain(..).map(|span| span.used()));
    }
}
