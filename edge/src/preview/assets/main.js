// @ts-check
// What every page runs. Pages are whole without it.
import { watchShots } from './shots.js';
import { watchChoices } from './board.js';
import { watchKeys } from './keys.js';
import { watchDecisions } from './live.js';
import { watchBatch } from './batch.js';
import { watchComparison } from './compare.js';
import { watchStage } from './stage.js';
import { watchUndo } from './undo.js';
import { watchPicks } from './picks.js';
import { watchProgress } from './progress.js';
import { watchCopies } from './text.js';
import { watchDrops } from './drop.js';

// First: it keeps what the page said before scripts changed it.
watchDecisions();
watchBatch();
watchShots(document);
watchChoices();
watchKeys();
watchComparison();
watchStage();
watchUndo();
watchPicks();
watchProgress();
watchCopies();
watchDrops();
