//! From a checkpoint to a bundle: graph, class embeddings, verification
