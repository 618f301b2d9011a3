//! Replaces the compression in a build without the feature `deflate`: there is no compressor, so no value of these types.

use super::Decompressed;
use crate::error::Violation;

#[derive(Debug)]
pub(crate) enum Compressor {}

#[derive(Debug)]
pub(crate) enum Decompressor {}

impl Compressor {
    pub(crate) fn new(_: u8, _: u8) -> Option<Self> {
        None
    }

    pub(crate) fn has(&self, _: u8, _: u8) -> bool {
        match *self {}
    }

    pub(crate) fn compress(&mut self, _: &[u8], _: &[u8]) -> Option<Vec<u8>> {
        match *self {}
    }
}

impl Decompressor {
    pub(crate) fn new() -> Option<Self> {
        None
    }

    pub(crate) fn start(&mut self, _: &[u8]) -> Result<(), Violation> {
        match *self {}
    }

    pub(crate) fn step(&mut self, _: &[u8], _: usize) -> Result<Decompressed<'_>, Violation> {
        match *self {}
    }
}
