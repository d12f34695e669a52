//! CLIP weights by canonical name: readers for every common checkpoint format, one writer
