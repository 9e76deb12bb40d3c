'use strict';

// Values. Whatever has a title in a region that scrolls says it in a bubble, under the pointer and under the focus. A region
// is one stop of the Tab key; arrow keys go to the nearest value in their direction, Escape hides the bubble.

var bubble = document.getElementById('value'), shown = null;

function show(mark) {
  var box = mark.getBoundingClientRect();
  shown = mark;
  bubble.textContent = mark.getAttribute('aria-label');
  bubble.hidden = false;
  var above = box.top - bubble.offsetHeight - 6;
  bubble.style.left = Math.max(4, Math.min(box.left, document.documentElement.clientWidth - bubble.offsetWidth - 4)) + 'px';
  bubble.style.top = (above >= 0 ? above : box.bottom + 6) + 'px';
}

function hide() {
  shown = null;
  bubble.hidden = true;
}

// The title becomes the accessible name: the browser's own bubble would come late, and never for the keyboard.
function makeMark(holder) {
  var isElement = holder.localName === 'title', mark = isElement ? holder.parentNode : holder;
  mark.setAttribute('aria-label', isElement ? holder.textContent : holder.title);
  if (isElement) holder.remove();
  else holder.removeAttribute('title');
  mark.setAttribute('role', 'img');
  mark.classList.add('mark');
  mark.tabIndex = -1;
  return mark;
}

// Places are those of the lower left corner, which cells, bars and words of one row or column share. Aside counts eightfold.
function nearest(marks, from, right, down) {
  var here = from.getBoundingClientRect(), best = null, least = Infinity;
  marks.forEach(function (mark) {
    var box = mark.getBoundingClientRect(), dx = box.left - here.left, dy = box.bottom - here.bottom;
    var ahead = right * dx + down * dy, aside = Math.abs(right * dy) + Math.abs(down * dx);
    if (ahead > 0.5 && ahead + 8 * aside < least) {
      least = ahead + 8 * aside;
      best = mark;
    }
  });
  return best;
}

var directions = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

function connect(region, marks) {
  var stop = marks[0];
  stop.tabIndex = 0;
  region.querySelectorAll('svg').forEach(function (svg) { svg.setAttribute('role', 'group'); });
  region.addEventListener('mouseover', function (event) {
    var mark = event.target.closest('.mark');
    if (mark) show(mark);
  });
  region.addEventListener('mouseout', hide);
  region.addEventListener('focusout', hide);
  region.addEventListener('focusin', function (event) {
    if (!event.target.classList.contains('mark')) return;
    stop.tabIndex = -1;
    stop = event.target;
    stop.tabIndex = 0;
    show(stop);
  });
  region.addEventListener('keydown', function (event) {
    var way = directions[event.key];
    if (!way || event.altKey || event.ctrlKey || event.metaKey || !event.target.classList.contains('mark')) return;
    event.preventDefault();
    var next = nearest(marks, event.target, way[0], way[1]);
    if (next) next.focus();
  });
}

document.querySelectorAll('.scroll').forEach(function (region) {
  var marks = Array.from(region.querySelectorAll('[title], title'), makeMark);
  if (!marks.length) return;
  region.removeAttribute('tabindex'); // its values take the focus
  connect(region, marks);
});
document.addEventListener('keydown', function (event) { if (event.key === 'Escape') hide(); });
addEventListener('scroll', function () { if (shown) show(shown); }, true);

// Tables. A click on the head of a column sorts by it, from high to low first; rows without a value stay last.

function sortTable(table, heads, head) {
  var column = heads.indexOf(head), up = head.getAttribute('aria-sort') === 'descending', body = table.tBodies[0];
  heads.forEach(function (other) { other.removeAttribute('aria-sort'); });
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  var rows = Array.from(body.rows, function (row, place) {
    var cell = row.cells[column], text = cell.dataset.v;
    return {row: row, place: place, missing: text === '', key: text === undefined ? cell.textContent : Number(text)};
  });
  rows.sort(function (a, b) {
    if (a.missing !== b.missing) return a.missing ? 1 : -1;
    var order = a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
    return (up ? order : -order) || a.place - b.place;
  });
  rows.forEach(function (entry) { body.appendChild(entry.row); });
}

document.querySelectorAll('table.data').forEach(function (table) {
  var heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach(function (head) {
    var button = document.createElement('button');
    button.type = 'button';
    button.title = 'sort by this column';
    button.append.apply(button, head.childNodes);
    head.append(button);
    button.addEventListener('click', function () { sortTable(table, heads, head); });
  });
});

// Colours. The page follows the reader's setting until the button says otherwise; the button names what it switches to.

var root = document.documentElement, button = document.getElementById('theme');
var darkWanted = matchMedia('(prefers-color-scheme: dark)');

function isDark() {
  return root.dataset.theme ? root.dataset.theme === 'dark' : darkWanted.matches;
}

function nameButton() {
  button.textContent = isDark() ? 'Light colours' : 'Dark colours';
}

button.addEventListener('click', function () {
  root.dataset.theme = isDark() ? 'light' : 'dark';
  nameButton();
});
darkWanted.addEventListener('change', nameButton);
button.hidden = false;
nameButton();
