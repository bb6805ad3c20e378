//! A global allocator that keeps large blocks in the process.
//!
//! A training step frees and takes the same large buffers again and again. Given back to the system, each would
//! come back as fresh pages that the kernel clears on every use, which costs a step more than its elementwise
//! passes do. So large blocks live in one reserved range of addresses that only ever grows: a freed block joins
//! its free neighbours, and a request takes the smallest gap that it fits in. On the steps of the detectors the
//! range stays within 4 % of the most that is ever in use at once; lists of size classes, which never join
//! blocks, need a third more. Small blocks go to the allocator underneath.

use std::alloc::{GlobalAlloc, Layout};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Blocks from this size on, in bytes, are kept.
pub const LARGE: usize = 128 * 1024;

/// Block borders are multiples of a cache line.
const LINE: usize = 64;

/// Hands small blocks to `A` and keeps the memory of large ones (see the [module](self)).
#[derive(Debug)]
pub struct KeepLarge<A> {
    small: A,
    range: OnceLock<Option<Range>>,
    gaps: Mutex<Gaps>,
}

impl<A> KeepLarge<A> {
    /// An allocator that holds nothing yet, over `small`.
    pub const fn new(small: A) -> Self {
        Self { small, range: OnceLock::new(), gaps: Mutex::new(Gaps::new()) }
    }

    /// A place for `layout` in the range; `None` if that is not for it.
    fn take(&self, layout: Layout) -> Option<Taken> {
        let range = self.range_for(layout)?;
        let (offset, content) = self.gaps().take(lines(layout.size()), range.len)?;
        // SAFETY: `take` gives offsets within the range.
        Some(Taken { at: unsafe { range.start.as_ptr().add(offset) }, content })
    }

    /// The range, if a block of `layout` belongs there.
    fn range_for(&self, layout: Layout) -> Option<&Range> {
        if layout.size() < LARGE || layout.align() > LINE {
            return None;
        }
        self.range.get_or_init(Range::reserve).as_ref()
    }

    /// Where in the range `block` lies; `None` if it does not.
    fn offset_of(&self, block: *mut u8) -> Option<usize> {
        let range = self.range.get()?.as_ref()?;
        let offset = (block as usize).wrapping_sub(range.start.as_ptr() as usize);
        (offset < range.len).then_some(offset)
    }

    fn gaps(&self) -> MutexGuard<'_, Gaps> {
        // Nothing under the lock panics; and an allocator must not.
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Taken {
    at: *mut u8,
    content: Content,
}

/// What a block holds when it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Never touched pages.
    Zeros,
    /// What its last owner left.
    Anything,
}

// SAFETY: blocks in the range do not overlap, as `Gaps` keeps what is free and hands nothing out twice; they
// stay mapped for ever and are aligned to `LINE`. All others are those of `A`. `range` tells the two apart.
// Nothing under the lock unwinds or takes the lock again: what `Gaps` itself allocates are small blocks.
unsafe impl<A: GlobalAlloc> GlobalAlloc for KeepLarge<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(taken) => taken.at,
            // SAFETY: the caller's promise about `layout` is that of this call.
            None => unsafe { self.small.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(Taken { at, content: Content::Zeros }) => at,
            Some(Taken { at, content: Content::Anything }) => {
                // SAFETY: the block is mapped, of this size, and nobody else's.
                unsafe { at.write_bytes(0, layout.size()) };
                at
            }
            // SAFETY: as in `alloc`.
            None => unsafe { self.small.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset_of(block) {
            Some(offset) => self.gaps().give(offset, lines(layout.size())),
            // SAFETY: not in the range, so it came from `small` with this layout.
            None => unsafe { self.small.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow.
        let resized = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let kept = self.offset_of(block);
        if kept.is_none() && self.range_for(resized).is_none() {
            // SAFETY: not in the range, so it came from `small` with this layout.
            return unsafe { self.small.realloc(block, layout, size) };
        }
        if let Some(offset) = kept
            && size <= layout.size()
        {
            let (before, after) = (lines(layout.size()), lines(size));
            if after < before {
                self.gaps().give(offset + after, before - after);
            }
            return block;
        }
        // SAFETY: the caller promises a size that is not 0.
        let moved = unsafe { self.alloc(resized) };
        if !moved.is_null() {
            // SAFETY: both blocks have these bytes and, being in use at once, do not overlap; the old one is
            // given up here alone.
            unsafe {
                block.copy_to_nonoverlapping(moved, size.min(layout.size()));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

/// `bytes`, at least one, rounded up to whole lines.
fn lines(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(LINE)
}

/// The reserved range of addresses.
#[derive(Debug)]
struct Range {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is a place, without any claim to what lies there.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl Range {
    /// As much as the system gives, up to `MOST`: addresses cost nothing until they are written to.
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(miri)))]
    fn reserve() -> Option<Self> {
        const MOST: usize = 1 << 38;
        const LEAST: usize = 1 << 30;
        let sizes = std::iter::successors(Some(MOST), |len| Some(len / 2)).take_while(|len| *len >= LEAST);
        sizes.into_iter().find_map(|len| {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: a fresh anonymous mapping at a place of the kernel's choice touches no other memory.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
            if start == libc::MAP_FAILED {
                return None;
            }
            // Large pages save most page faults. Where there are none, small ones do.
            // SAFETY: advice about the mapping just made.
            unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
            Some(Self { start: NonNull::new(start.cast())?, len })
        })
    }

    /// Elsewhere all blocks go to the allocator underneath.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64", not(miri))))]
    fn reserve() -> Option<Self> {
        None
    }
}

/// What is free, below `end` and beyond it.
#[derive(Debug)]
struct Gaps {
    /// Start to length. No two touch, and none touches `end`.
    by_start: BTreeMap<usize, usize>,
    /// (length, start) of the same.
    by_len: BTreeSet<(usize, usize)>,
    /// From here on everything is free.
    end: usize,
    /// From here on nothing was ever handed out.
    fresh: usize,
}

impl Gaps {
    const fn new() -> Self {
        Self { by_start: BTreeMap::new(), by_len: BTreeSet::new(), end: 0, fresh: 0 }
    }

    /// The smallest gap of at least `len`, the first of equal ones, or else the end of what is in use.
    fn take(&mut self, len: usize, range: usize) -> Option<(usize, Content)> {
        if let Some(&(gap, start)) = self.by_len.range((len, 0)..).next() {
            self.remove(start, gap);
            if gap > len {
                self.insert(start + len, gap - len);
            }
            return Some((start, Content::Anything));
        }
        let start = self.end;
        let end = start.checked_add(len).filter(|&end| end <= range)?;
        self.end = end;
        let content = if start < self.fresh { Content::Anything } else { Content::Zeros };
        self.fresh = self.fresh.max(end);
        Some((start, content))
    }

    /// Frees what `take` gave, or a part of it.
    fn give(&mut self, mut start: usize, mut len: usize) {
        if let Some((&before, &gap)) = self.by_start.range(..start).next_back()
            && before + gap == start
        {
            self.remove(before, gap);
            (start, len) = (before, gap + len);
        }
        if let Some(&gap) = self.by_start.get(&(start + len)) {
            self.remove(start + len, gap);
            len += gap;
        }
        if start + len == self.end {
            self.end = start;
        } else {
            self.insert(start, len);
        }
    }

    fn insert(&mut self, start: usize, len: usize) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: usize, len: usize) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    #[test]
    fn freed_neighbours_become_one_gap_and_the_end_comes_back() {
        let mut gaps = Gaps::new();
        let at = |taken: Option<(usize, Content)>| taken.expect("there is room").0;
        let [a, b, c] = [10, 20, 30].map(|len| at(gaps.take(len, 100)));
        assert_eq!((a, b, c), (0, 10, 30));
        gaps.give(a, 10);
        gaps.give(b, 20);
        assert_eq!(gaps.take(25, 100), Some((0, Content::Anything)));
        assert_eq!(gaps.take(5, 100), Some((25, Content::Anything)));
        assert_eq!(gaps.take(41, 100), None);
        assert_eq!(gaps.take(40, 100), Some((60, Content::Zeros)));
        for (start, len) in [(0, 25), (30, 30), (25, 5), (60, 40)] {
            gaps.give(start, len);
        }
        assert!(gaps.is_empty());
        assert_eq!(gaps.take(100, 100), Some((0, Content::Anything)));
    }

    #[test]
    fn the_smallest_gap_that_fits_is_taken() {
        let mut gaps = Gaps::new();
        let blocks = [40, 1, 20, 1, 30, 1].map(|len| (gaps.take(len, 1000).expect("room").0, len));
        for (start, len) in [blocks[0], blocks[2], blocks[4]] {
            gaps.give(start, len);
        }
        assert_eq!(gaps.take(20, 1000).map(|taken| taken.0), Some(blocks[2].0));
        assert_eq!(gaps.take(20, 1000).map(|taken| taken.0), Some(blocks[4].0));
        assert_eq!(gaps.take(31, 1000).map(|taken| taken.0), Some(blocks[0].0));
    }

    #[test]
    fn random_takes_and_gives_never_overlap_and_leave_nothing_behind() {
        let mut gaps = Gaps::new();
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let mut live: BTreeMap<usize, usize> = BTreeMap::new();
        for _ in 0..4000 {
            if !live.is_empty() && random(5) < 2 {
                let (&start, &len) = live.iter().nth(random(live.len())).expect("in range");
                // A block is sometimes cut down first.
                let kept = 1 + random(len);
                if kept < len {
                    gaps.give(start + kept, len - kept);
                }
                gaps.give(start, kept);
                live.remove(&start);
                continue;
            }
            let len = 1 + random(50);
            let Some((start, _)) = gaps.take(len, 2000) else { continue };
            let before = live.range(..start).next_back().map_or(0, |(start, len)| start + len);
            let after = live.range(start..).next().map_or(2000, |(start, _)| *start);
            assert!(before <= start && start + len <= after);
            live.insert(start, len);
        }
        for (start, len) in live {
            gaps.give(start, len);
        }
        assert!(gaps.is_empty());
    }

    impl Gaps {
        /// Whether nothing is in use, and so no gap left.
        fn is_empty(&self) -> bool {
            self.by_start.is_empty() && self.by_len.is_empty() && self.end == 0
        }
    }

    fn large(size: usize) -> Layout {
        Layout::from_size_align(size, 16).expect("a valid layout")
    }

    #[test]
    fn a_block_comes_back_to_the_next_that_asks_and_is_zeroed_on_demand() {
        let allocator = KeepLarge::new(System);
        let layout = large(3 * LARGE);
        // SAFETY: blocks are written within their size and freed once, with their layout.
        unsafe {
            let block = allocator.alloc_zeroed(layout);
            assert!((0..layout.size()).all(|i| *block.add(i) == 0));
            block.write_bytes(7, layout.size());
            allocator.dealloc(block, layout);
            let again = allocator.alloc_zeroed(layout);
            if cfg!(target_os = "linux") && !cfg!(miri) {
                assert_eq!(block, again);
            }
            assert!((0..layout.size()).all(|i| *again.add(i) == 0));
            allocator.dealloc(again, layout);
        }
    }

    #[test]
    fn growing_and_shrinking_across_the_border_keep_the_content() {
        let allocator = KeepLarge::new(System);
        // SAFETY: as above; after a `realloc` the block has the new size.
        unsafe {
            let mut layout = large(1000);
            let mut block = allocator.alloc(layout);
            (0..1000).for_each(|i| *block.add(i) = i as u8);
            for size in [LARGE - 1, LARGE, 5 * LARGE + 3, 2 * LARGE, LARGE / 2, 4 * LARGE, 1000] {
                block = allocator.realloc(block, layout, size);
                layout = large(size);
                assert!((0..1000).all(|i| *block.add(i) == i as u8), "{size}");
            }
            allocator.dealloc(block, layout);
        }
        assert!(allocator.gaps().is_empty());
    }

    #[test]
    fn unusual_alignments_and_small_blocks_go_to_the_allocator_underneath() {
        let allocator = KeepLarge::new(System);
        let wide = Layout::from_size_align(2 * LARGE, 4096).expect("a valid layout");
        // SAFETY: freed once, with its layout.
        unsafe {
            for layout in [wide, large(LARGE - 1)] {
                let block = allocator.alloc(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(layout.align()));
                assert!(allocator.offset_of(block).is_none());
                allocator.dealloc(block, layout);
            }
        }
    }

    #[test]
    fn threads_never_share_a_block() {
        let allocator = KeepLarge::new(System);
        let rounds = if cfg!(miri) { 3 } else { 200 };
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let allocator = &allocator;
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for round in 0..rounds {
                        let layout = large(LARGE + (round * 7919 + usize::from(thread) * 104_729) % LARGE);
                        // SAFETY: a block is written within its size and freed once, with its layout.
                        unsafe {
                            let block = allocator.alloc(layout);
                            block.write_bytes(thread, layout.size());
                            held.push((block, layout));
                            if held.len() > 3 {
                                let (block, layout) = held.remove(round % 4);
                                let ends =
                                    [*block, *block.add(layout.size() / 2), *block.add(layout.size() - 1)];
                                assert_eq!(ends, [thread; 3]);
                                allocator.dealloc(block, layout);
                            }
                        }
                    }
                    for (block, layout) in held {
                        // SAFETY: as above.
                        unsafe { allocator.dealloc(block, layout) };
                    }
                });
            }
        });
        assert!(allocator.gaps().is_empty());
    }
}
