"""The images of a service, by its own code or by the drop-in; runs in the service's environment.

The argument is a JSON object: `service` (nova, cinder), `ours`, `config` (the service's config
file), `context` (user, project, token), `verb` (upload, download, list), `image` (an id), `path`,
`clock`. The seconds that the verb took are written into `clock`; importing the service and asking
for one record, which a running service has behind it, are not among them.
"""

import json
import os
import sys
import time


class Nova:
    def __init__(self, job):
        import nova.monkey_patch

        nova.monkey_patch.patch("threading")
        import nova.conf
        import nova.context
        import nova.exception
        from nova.image import glance

        nova.conf.CONF(
            [], project="nova", default_config_files=[job["config"]], default_config_dirs=[]
        )
        if job["ours"]:
            from imagebroker.compat.nova import API

            glance.API = API.on(nova.conf.CONF, nova.exception)
        self.api = glance.API()
        user, project, token = job["context"]
        self.context = nova.context.RequestContext(
            user_id=user, project_id=project, auth_token=token
        )

    def record(self, image):
        return self.api.get(self.context, image)

    def upload(self, path):
        meta = {"name": "snapshot", "disk_format": "raw", "container_format": "bare"}
        with open(path, "rb") as file:
            return self.api.create(self.context, meta, file)["id"]

    def download(self, image, path):
        self.api.download(self.context, image, dest_path=path)

    def list(self):
        return len(list(self.api.get_all(self.context)))

    def delete(self, image):
        self.api.delete(self.context, image)


class Cinder:
    def __init__(self, job):
        import cinder.context
        import cinder.exception
        import cinder.image.image_utils  # before glance, which it imports
        from cinder.common import config
        from cinder.image import glance

        config.CONF(
            [], project="cinder", default_config_files=[job["config"]], default_config_dirs=[]
        )
        if job["ours"]:
            from imagebroker.compat.cinder import GlanceImageService, broker_of

            broker = broker_of(config.CONF)
            glance.GlanceImageService = GlanceImageService.on(broker, cinder.exception)
        self.api = glance.get_default_image_service()
        user, project, token = job["context"]
        self.context = cinder.context.RequestContext(
            user_id=user, project_id=project, auth_token=token
        )

    def record(self, image):
        return self.api.show(self.context, image)

    def upload(self, path):
        meta = {"name": "volume", "disk_format": "raw", "container_format": "bare"}
        image = self.api.create(self.context, meta)["id"]
        with open(path, "rb") as file:
            self.api.update(self.context, image, {}, file)
        return image

    def download(self, image, path):
        with open(path, "wb") as file:
            self.api.download(self.context, image, file)

    def list(self):
        return len(self.api.detail(self.context))

    def delete(self, image):
        self.api.delete(self.context, image)


def main():
    job = json.loads(sys.argv[1])
    service = {"nova": Nova, "cinder": Cinder}[job["service"]](job)
    service.record(job["image"])
    began = time.perf_counter()
    if job["verb"] == "upload":
        made = service.upload(job["path"])
    elif job["verb"] == "download":
        service.download(job["image"], job["path"])
        with open(job["path"], "rb") as file:  # as every other file: stored when it is on the disk
            os.fsync(file)
    else:
        found = service.list()
    seconds = time.perf_counter() - began
    if job["verb"] == "upload":
        record = service.record(made)
        service.delete(made)
        assert record["status"] == "active", record
        assert record["size"] == os.stat(job["path"]).st_size, record
    elif job["verb"] == "list":
        assert found == job["images"], found
    with open(job["clock"], "w") as file:
        file.write(str(seconds))


if __name__ == "__main__":
    main()
