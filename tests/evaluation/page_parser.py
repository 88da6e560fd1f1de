"""A page as a browser would find it."""

import base64
from html.parser import HTMLParser

import cv2
import numpy as np


class Page(HTMLParser):
    """What a browser would find: images with their alternative texts, all text, every address."""

    def __init__(self, text):
        super().__init__()
        self.images, self.texts, self.addresses, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.addresses += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag == "img":
            self.images.append(attrs)

    def handle_data(self, data):
        self.texts.append(data.strip())

    def pixels(self, place):
        encoded = base64.b64decode(self.images[place]["src"].split(",", 1)[1])
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
