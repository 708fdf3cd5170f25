"""Read DICOM files as brightness. In a notebook: `read_image(path)`, or `read_pixels(path)` for the stored values.

reading         a file to an image: start here
decoding        encoded pixel data to stored values
codestream      the first markers of a compressed frame
stored_values   the bits of a word that belong to the stored value
grayscale       stored values to brightness (PS3.3 C.11)
look_up_tables  the tables of a modality or VOI LUT sequence
elements        header elements as numbers and text
headers         the headers of many files, for `prepare --check`
"""

from efficientnet.mammography.dicom.reading import ImageError, read_image, read_pixels, read_shown_image

__all__ = ["ImageError", "read_image", "read_pixels", "read_shown_image"]
