//! A global allocator that keeps large blocks in the process.
//!
//! A training step frees and takes the same large buffers again and again. Given back to the system, each
//! would come back as fresh pages that the kernel clears on every use, which costs a step more than its
//! elementwise passes do. So large blocks live in one reserved range of addresses that only ever grows: a
//! freed block joins its free neighbours, and a request takes the smallest gap that it fits in. On the steps
//! of the detectors the range mostly stays within 8 % of the most that is ever in use at once, and at times,
//! as threads allocate in another order, within 20 %; lists of size classes, which never join blocks, need a
//! third more. Where the range grows beyond a tenth, free pages go back to the system: memory follows what is
//! in use, not how it is scattered. Small blocks go to the allocator underneath.
//!
//! Steps of a ResNet-101 teacher and a ResNet-18 student at 800x1344, batch 2, under this, mimalloc, mimalloc without
//! purging and glibc: peak 1,441, 1,611, 1,860 and 1,420 MiB; system time 1.9, 6.1, 1.3 and 13.3 s
//! (docs/PERFORMANCE.md has the rest).

mod gaps;
mod pages;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use gaps::{Content, Gaps};
use pages::Pages;

/// Size in bytes from which blocks are kept.
pub const LARGE: usize = 128 * 1024;

/// Block borders are multiples of a cache line.
const LINE: usize = 64;

/// Global allocator that keeps the memory of large blocks and hands small ones to `A` (see the
/// [module](self)).
#[derive(Debug)]
pub struct KeepLarge<A> {
    small: A,
    range: OnceLock<Option<Range>>,
    blocks: Mutex<Blocks>,
}

impl<A> KeepLarge<A> {
    /// An allocator that holds nothing yet, over `small`.
    pub const fn new(small: A) -> Self {
        Self { small, range: OnceLock::new(), blocks: Mutex::new(Blocks::new()) }
    }

    /// A place for `layout` in the range; `None` if that is not for it.
    fn take(&self, layout: Layout) -> Option<Taken> {
        let range = self.range_for(layout)?;
        let (offset, content) = self.blocks().take(lines(layout.size()), range)?;
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

    /// Offset of `block` in the range; `None` if it lies elsewhere.
    fn offset_of(&self, block: *mut u8) -> Option<usize> {
        let range = self.range.get()?.as_ref()?;
        let offset = (block as usize).wrapping_sub(range.start.as_ptr() as usize);
        (offset < range.len).then_some(offset)
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        // Nothing under the lock panics; and an allocator must not.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks in use in the range, and pages that hold memory.
#[derive(Debug)]
struct Blocks {
    gaps: Gaps,
    pages: Pages,
}

impl Blocks {
    const fn new() -> Self {
        Self { gaps: Gaps::new(), pages: Pages::new() }
    }

    /// A place for `len` bytes; free pages make room for what it newly needs.
    fn take(&mut self, len: usize, range: &Range) -> Option<(usize, Content)> {
        let (start, content) = self.gaps.take(len, range.len)?;
        let mut excess = self.pages.enter(start, len);
        for gap in self.gaps.longest_first() {
            if excess == 0 {
                break;
            }
            excess -= self.pages.release(gap, excess, |page| range.empty(page));
        }
        Some((start, content))
    }

    /// Frees what `take` gave, or the end of it.
    fn give(&mut self, start: usize, len: usize) {
        self.gaps.give(start, len);
        self.pages.leave(len);
    }
}

struct Taken {
    at: *mut u8,
    content: Content,
}

// SAFETY: blocks in the range do not overlap, as `Gaps` keeps what is free and hands nothing out twice; they
// stay mapped for ever and are aligned to `LINE`. All others are those of `A`. `range` tells the two apart.
// Nothing under the lock unwinds or takes the lock again: what `Blocks` itself allocates are small blocks.
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
            Some(offset) => self.blocks().give(offset, lines(layout.size())),
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
                self.blocks().give(offset + after, before - after);
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
    /// Reserves as much as the system gives, up to `MOST`, from the border of a page on: addresses cost
    /// nothing until they are written to.
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
            let skipped = start.addr().next_multiple_of(pages::PAGE) - start.addr();
            // SAFETY: the mapping is longer than a page.
            let start = unsafe { start.cast::<u8>().add(skipped) };
            Some(Self { start: NonNull::new(start)?, len: len - skipped })
        })
    }

    /// Gives the memory of the page at `offset` back to the system. Nobody may be using it.
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(miri)))]
    fn empty(&self, offset: usize) {
        // If the system refuses, the page keeps its memory.
        // SAFETY: the page is within the mapping, which is anonymous: it reads as zeros the next time.
        unsafe { libc::madvise(self.start.as_ptr().add(offset).cast(), pages::PAGE, libc::MADV_DONTNEED) };
    }

    /// There is no range then.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64", not(miri))))]
    fn empty(&self, _offset: usize) {}

    /// Elsewhere all blocks go to the allocator underneath.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64", not(miri))))]
    fn reserve() -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

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
        assert!(allocator.blocks().gaps.is_empty());
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
    #[cfg_attr(any(not(target_os = "linux"), miri), ignore = "there is no range")]
    fn memory_follows_what_is_in_use_not_how_it_is_scattered() {
        let allocator = KeepLarge::new(System);
        let (narrow, wide) = (large(4 << 20), large(9 << 20));
        let filled = |layout: Layout, byte: u8| {
            // SAFETY: a block is written within its size.
            unsafe {
                let block = allocator.alloc(layout);
                block.write_bytes(byte, layout.size());
                (block, layout, byte)
            }
        };
        let mut held: Vec<_> = (0..40).map(|i| filled(narrow, i)).collect();
        // SAFETY: each is freed once, with its layout; those still held were written wholly.
        unsafe {
            for index in (0..20).rev() {
                let (block, layout, _) = held.remove(2 * index);
                allocator.dealloc(block, layout);
            }
            // None of the gaps is wide enough.
            held.extend((0..8).map(|i| filled(wide, 100 + i)));
            assert!(held.iter().all(|(block, layout, byte)| {
                [0, layout.size() / 2, layout.size() - 1].iter().all(|at| *block.add(*at) == *byte)
            }));
            let range = allocator.range.get().and_then(Option::as_ref).expect("it was reserved");
            let touched = 240 << 20;
            let mut pages = vec![0u8; touched / 4096];
            let asked = libc::mincore(range.start.as_ptr().cast(), touched, pages.as_mut_ptr());
            assert_eq!(asked, 0);
            let resident = 4 * pages.iter().filter(|page| **page & 1 == 1).count() / 1024;
            assert!((152..=184).contains(&resident), "{resident} MiB of 160 in use once, 232 with the gaps");
            for (block, layout, _) in held {
                allocator.dealloc(block, layout);
            }
        }
        assert!(allocator.blocks().gaps.is_empty());
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
        assert!(allocator.blocks().gaps.is_empty());
    }
}
