// A page from the disk may start no worker. The theme's search gets a frame instead, in which the same script runs.
if (location.protocol === "file:") {
  const scripts = (urls) => urls.reduce((before, url) => before.then(() => new Promise((done) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = done;
    document.body.append(script);
  })), Promise.resolve());

  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "Search";
      this.frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      document.body.append(this.frame);
      this.ready = new Promise((done) => this.frame.addEventListener("load", done, { once: true }));
      const inside = this.frame.contentDocument;
      inside.open();
      inside.write(`<!doctype html><title>Search</title><body><script>
        postMessage = (data) => frameElement.answer(data);
        importScripts = (...urls) => (${scripts})(urls);
      <${"/"}script><script src="${new URL(url, location)}"><${"/"}script>`);
      inside.close();
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
  window.Worker = window.IFrameWorker;
}
