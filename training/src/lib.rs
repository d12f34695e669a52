//! CLIP pre-training, evaluation and the generated data set
