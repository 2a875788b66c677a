// Field measurements for pages that show Bildkante images. Reports once per metric, when the browser settles
// it (LCP on first input or when the page is hidden), to the origin this script came from.
(function () {
  'use strict';
  var script = document.currentScript;
  if (!script || !window.webVitals) return;
  var origin = new URL(script.src, location.href).origin;
  var endpoint = origin + '/rum';

  function image(url) {
    if (!url) return null;
    var parsed;
    try { parsed = new URL(url, location.href); } catch (e) { return null; }
    var parts = parsed.pathname.split('/');
    return parsed.origin === origin && parts[1] === 'i' ? { campaign: parts[2], slot: parts[3] } : null;
  }

  function send(report) {
    // text/plain needs no CORS preflight, which a page being hidden could not wait for.
    var body = new Blob([JSON.stringify(report)], { type: 'text/plain' });
    if (!(navigator.sendBeacon && navigator.sendBeacon(endpoint, body))) {
      fetch(endpoint, { method: 'POST', body: body, keepalive: true, mode: 'no-cors' }).catch(function () {});
    }
  }

  window.webVitals.onLCP(function (metric) {
    var a = metric.attribution, ours = image(a.url);
    // Only the LCP of our own images is ours to report.
    if (!ours) return;
    send({
      metric: 'LCP', value: metric.value, campaign: ours.campaign, slot: ours.slot,
      parts: {
        ttfb: a.timeToFirstByte, load_delay: a.resourceLoadDelay,
        load_duration: a.resourceLoadDuration, render_delay: a.elementRenderDelay
      }
    });
  });
  ['CLS', 'INP', 'TTFB'].forEach(function (name) {
    window.webVitals['on' + name](function (metric) { send({ metric: name, value: metric.value }); });
  });
})();
