"""From a model and radiographs to findings; torch and mmdet are loaded only by the files that say so."""
