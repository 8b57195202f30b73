"""glanceclient as a service uses it: OPTIONS (JSON), ENDPOINT, ID, DEST."""

import json
import sys

from glanceclient import Client
from glanceclient.common.utils import save_image
from keystoneauth1 import session
from keystoneauth1.identity import v3

options, endpoint, image_id, dest = sys.argv[1:]
auth = v3.Password(**json.loads(options))
client = Client("2", session=session.Session(auth), endpoint_override=endpoint)
save_image(client.images.data(image_id), dest)
