"""Images, from their source to the memory of the device."""
