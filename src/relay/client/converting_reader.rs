//! A reader that converts a message while it is sent (`smtp/sender/converter.rs`).

use std::io::{self, Read};

use crate::smtp::sender::{Conversion, Converter};

/// Reader of a converted message. It holds one converted block in memory.
pub(super) struct ConvertingReader<R> {
    input: R,
    /// None after the end of the input.
    converter: Option<Converter>,
    /// The last block that was read.
    block: Vec<u8>,
    /// The block, converted, of which `taken` bytes were returned.
    converted: Vec<u8>,
    taken: usize,
}

impl<R: Read> Read for ConvertingReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.converted.len() {
            self.converted.clear();
            self.taken = 0;
            let Some(converter) = &mut self.converter else { return Ok(0) };
            match self.input.read(&mut self.block)? {
                0 => {
                    if let Some(converter) = self.converter.take() {
                        converter.finish(&mut self.converted);
                    }
                }
                n => {
                    let read = self.block.get(..n).unwrap_or_default();
                    converter.convert(read, &mut self.converted);
                }
            }
        }
        let n = self.converted.get(self.taken..).unwrap_or_default().read(out)?;
        self.taken += n;
        Ok(n)
    }
}

/// Returns a reader of `input` after `conversion`.
pub(super) fn convert<'a>(
    input: Box<dyn Read + 'a>,
    conversion: &Conversion,
) -> Box<dyn Read + 'a> {
    match Converter::new(conversion) {
        None => input,
        Some(converter) => Box::new(ConvertingReader {
            input,
            converter: Some(converter),
            block: vec![0; BLOCK_SIZE],
            converted: Vec::new(),
            taken: 0,
        }),
    }
}

/// Number of bytes that are converted at once.
const BLOCK_SIZE: usize = 8 * 1024;
