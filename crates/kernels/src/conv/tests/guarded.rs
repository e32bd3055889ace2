//! Buffers that end right before an inaccessible page, so that a kernel that reads or writes one byte too
//! far stops the test.

use std::ffi::{c_int, c_void};

// The C library that std links on Linux; no dependency for three calls.
unsafe extern "C" {
    fn mmap(
        addr: *mut c_void,
        len: usize,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        at: i64,
    ) -> *mut c_void;
    fn mprotect(addr: *mut c_void, len: usize, prot: c_int) -> c_int;
    fn munmap(addr: *mut c_void, len: usize) -> c_int;
}

const PAGE: usize = 4096;

/// A slice whose end is the end of the accessible memory.
pub(super) struct Guarded<T> {
    mapping: *mut c_void,
    mapped: usize,
    data: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    pub(super) fn new(values: &[T]) -> Self {
        let bytes = size_of_val(values);
        let pages = bytes.next_multiple_of(PAGE);
        let mapped = pages + PAGE;
        // SAFETY: a new private anonymous mapping; its last page is made inaccessible; the values are
        // copied to the end of the rest, where they fit.
        unsafe {
            let mapping = mmap(std::ptr::null_mut(), mapped, 3, 0x22, -1, 0);
            assert!(!mapping.is_null() && mapping as isize != -1, "no memory");
            assert_eq!(mprotect(mapping.byte_add(pages), PAGE, 0), 0);
            let data = mapping.byte_add(pages - bytes).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), data, values.len());
            Self {
                mapping,
                mapped,
                data,
                len: values.len(),
            }
        }
    }
}

impl<T> std::ops::Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote `len` values, and only `drop` unmaps them.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl<T> std::ops::DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { munmap(self.mapping, self.mapped) };
    }
}
