"""Networks and checkpoints of hubs: timm, Hugging Face, torchvision."""
