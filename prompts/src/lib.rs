//! From text to class embeddings: tokenizer, templates, text tower
