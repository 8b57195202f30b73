"""openstacksdk's `download_image`: OPTIONS (JSON), ENDPOINT, ID, DEST."""

import json
import sys

import openstack

options, endpoint, image_id, dest = sys.argv[1:]
connection = openstack.connect(
    load_yaml_config=False, load_envvars=False, auth=json.loads(options),
    image_endpoint_override=endpoint, image_api_version="2", region_name="RegionOne",
)  # fmt: skip
connection.image.download_image(image_id, output=dest)
