// The preview's behaviour: say what each picture really is, fetch it again while a stand-in is shown, fill in
// bytes per format, copy markup. Everything works without it but those.
(function () {
  'use strict';
  var kB = function (bytes) { return (bytes / 1000).toFixed(bytes < 10000 ? 1 : 0) + ' kB'; };
  var RETRY_MS = [800, 1200, 2000, 3000, 5000, 8000, 10000, 10000, 10000, 10000];

  // Pictures that nothing draws until people decide: looking again is of no use.
  var WITHHELD = {
    'awaiting-decision': 'awaits a decision', 'killed': 'killed', 'parts-unknown': 'withheld by a kill',
    'rights-ended': 'its rights have ended', 'state-stale': 'the edge has long heard nothing of its fleet'
  };

  function withheld(status) {
    var reason = Object.keys(WITHHELD).find(function (word) { return status.indexOf(word) >= 0; });
    return reason ? WITHHELD[reason] : null;
  }

  function describe(response) {
    var status = response.headers.get('cache-status') || '';
    var timing = response.headers.get('server-timing') || '';
    var edge = /edge;dur=([\d.]+)/.exec(timing);
    return {
      ok: response.ok,
      withheld: withheld(status),
      standIn: /detail="?(fallback|placeholder)/.test(status),
      detail: (/detail="?([^";]+)/.exec(status) || [])[1] || 'error ' + response.status,
      edgeMs: edge ? Number(edge[1]) : null,
      bytes: Number(response.headers.get('content-length')) || 0,
      type: (response.headers.get('content-type') || '').replace('image/', '').toUpperCase()
    };
  }

  function head(url) { return fetch(url, { method: 'HEAD', cache: 'no-store' }).then(describe); }

  function label(badge, state, text) {
    if (!badge) return;
    badge.dataset.state = state;
    badge.textContent = text;
    badge.hidden = false;
  }

  function fillBytes(shot) {
    var rows = shot.querySelectorAll('[data-format-url]');
    return Promise.all(Array.prototype.map.call(rows, function (row) {
      return head(row.dataset.formatUrl).then(function (facts) { return { row: row, facts: facts }; });
    })).then(function (all) {
      var known = all.filter(function (one) { return one.facts.ok && !one.facts.standIn; });
      var most = Math.max.apply(null, known.map(function (one) { return one.facts.bytes; }).concat(1));
      known.forEach(function (one) {
        one.row.style.setProperty('--share', one.facts.bytes / most);
        one.row.nextElementSibling.textContent = kB(one.facts.bytes);
      });
    });
  }

  // Looks until the picture itself is there, then shows it in place of the stand-in.
  function settle(shot, attempt) {
    var image = shot.querySelector('img');
    var badge = shot.querySelector('.badge');
    var url = image.currentSrc || image.src;
    head(url).then(function (facts) {
      if (!facts.ok) {
        label(badge, 'failed', facts.detail);
      } else if (facts.withheld) {
        label(badge, 'stand-in', facts.withheld);
      } else if (facts.standIn) {
        label(badge, 'stand-in', 'drawing … (' + facts.detail + ')');
        if (attempt < RETRY_MS.length) setTimeout(function () { settle(shot, attempt + 1); }, RETRY_MS[attempt]);
        return;
      } else {
        if (attempt > 0) reload(image);
        label(badge, 'final', facts.type + ' · ' + kB(facts.bytes) + (facts.edgeMs === null ? '' : ' · edge ' + facts.edgeMs + ' ms'));
        fillBytes(shot).catch(function () {});
      }
      image.classList.remove('waiting');
    }).catch(function () { label(badge, 'failed', 'edge out of reach'); });
  }

  function reload(image) {
    var picture = image.closest('picture');
    var copy = picture.cloneNode(true);
    copy.querySelector('img').loading = 'eager';
    // The stand-in is `no-cache`: a fresh element asks the edge again.
    picture.replaceWith(copy);
  }

  function watch(shot) {
    var image = shot.querySelector('img');
    if (image.complete && image.naturalWidth > 0) settle(shot, 0);
    else {
      image.classList.add('waiting');
      image.addEventListener('load', function () { settle(shot, 0); }, { once: true });
      image.addEventListener('error', function () { label(shot.querySelector('.badge'), 'failed', 'no image'); }, { once: true });
    }
  }

  document.querySelectorAll('[data-shot]').forEach(watch);

  document.addEventListener('click', function (event) {
    var button = event.target.closest('button[data-copy]');
    if (!button) return;
    navigator.clipboard.writeText(button.dataset.copy).then(function () {
      var text = button.textContent;
      button.textContent = 'Copied';
      setTimeout(function () { button.textContent = text; }, 1200);
    });
  });

  var form = document.querySelector('form.axes');
  if (form) form.addEventListener('change', function () { form.requestSubmit(); });

  var readout = document.querySelector('[data-lcp]');
  if (readout && window.PerformanceObserver) {
    new PerformanceObserver(function (list) {
      var last = list.getEntries().pop();
      readout.textContent = (last.startTime / 1000).toFixed(2) + ' s' + (last.url ? ' (the picture)' : ' (text)');
    }).observe({ type: 'largest-contentful-paint', buffered: true });
  }
})();
