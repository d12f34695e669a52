//! Offline image classification with CLIP and learned prompts on small boards
