// OHIF's own SR extension under node, without its user interface: prints what it makes of reports, as JSON.
//
//   node viewer.mjs PACKAGES REQUEST.json
//
// REQUEST: {images: [paths], reports: [paths], early, correction: {image, edits, reader, path}}.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import vm from 'node:vm';

const [packages, requestFile] = process.argv.slice(2);
const request = JSON.parse(readFileSync(requestFile, 'utf8'));
const { resolve } = createRequire(join(packages, 'package.json'));
const load = async name => {
  const { exports } = JSON.parse(readFileSync(join(packages, 'node_modules', name, 'package.json'), 'utf8'));
  const entry = exports?.['.']?.import;
  return import(pathToFileURL(entry ? join(packages, 'node_modules', name, entry) : resolve(name)));
};
console.log = console.info = console.warn = (...words) => process.stderr.write(`${words.map(String).join(' ')}\n`);

globalThis.HTMLDivElement = class {}; // annotations may be asked for by the element they are drawn in

const dcmjs = (await load('dcmjs')).default;
const core = await load('@cornerstonejs/core');
const tools = await load('@cornerstonejs/tools');
const adapters = await load(`@cornerstonejs/adapters${request.early ? '-3' : ''}`);
const glMatrix = await load('gl-matrix');
const { DicomMessage, DicomMetaDictionary } = dcmjs.data;

function read(path) {
  const file = readFileSync(path);
  const { dict } = DicomMessage.readFile(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength));
  return DicomMetaDictionary.naturalizeDataset(dict);
}

// What the page around the extension offers it.
const instances = new Map();
const displaySets = [];
const added = [];
const imageId = instance => `test:${instance.SOPInstanceUID}`;
const ofImage = id => instances.get(id.slice('test:'.length));
core.metaData.addProvider((type, id) => {
  const instance = typeof id === 'string' && id.startsWith('test:') ? ofImage(id) : undefined;
  if (!instance) return undefined;
  const frameOfReferenceUID = instance.FrameOfReferenceUID ?? instance.SeriesInstanceUID;
  switch (type) {
    case 'instance':
      return { ...instance, FrameOfReferenceUID: frameOfReferenceUID };
    case 'imagePlaneModule': // radiographs lie in no patient's coordinates: OHIF takes these defaults
      return {
        rows: instance.Rows, columns: instance.Columns, frameOfReferenceUID,
        rowCosines: [1, 0, 0], columnCosines: [0, 1, 0], imagePositionPatient: [0, 0, 0],
        imageOrientationPatient: [1, 0, 0, 0, 1, 0], pixelSpacing: [1, 1], rowPixelSpacing: 1, columnPixelSpacing: 1,
      };
    case 'sopCommonModule':
    case 'generalImageModule':
    case 'generalStudyModule':
    case 'generalSeriesModule':
      return {
        sopClassUID: instance.SOPClassUID, sopInstanceUID: instance.SOPInstanceUID, instanceNumber: 1,
        studyInstanceUID: instance.StudyInstanceUID, seriesInstanceUID: instance.SeriesInstanceUID,
      };
    default:
      return undefined;
  }
});
const services = {
  displaySetService: {
    activeDisplaySets: displaySets,
    EVENTS: {},
    subscribe() {},
    getDisplaySetByUID: uid => displaySets.find(set => set.displaySetInstanceUID === uid),
    getDisplaySetsBy: test => displaySets.filter(test),
    getDisplaySetCache: () => new Map(),
  },
  measurementService: {
    getSourceMappings: () =>
      ['Length', 'Bidirectional', 'EllipticalROI', 'CircleROI', 'ArrowAnnotate', 'PlanarFreehandROI', 'Probe',
       'RectangleROI', 'Angle', 'CobbAngle', 'LivewireContour', 'SplineROI'].map(annotationType => ({ annotationType })),
    getSource: () => ({}),
    addRawMeasurement: (_source, tool, { annotation }) => added.push({ tool, annotation }),
  },
  customizationService: { getCustomization: name => (name === 'codingValues' ? {} : undefined) },
};
const dataSource = { getImageIdsForDisplaySet: set => (set.images ?? []).map(imageId) };
const app = {
  servicesManager: { services },
  extensionManager: { getDataSources: () => [dataSource], getActiveDataSource: () => [dataSource] },
  commandsManager: { runCommand() {} },
};
const ohif = {
  utils: {
    sopClassDictionary: {
      BasicTextSR: '1.2.840.10008.5.1.4.1.1.88.11', EnhancedSR: '1.2.840.10008.5.1.4.1.1.88.22',
      ComprehensiveSR: '1.2.840.10008.5.1.4.1.1.88.33', Comprehensive3DSR: '1.2.840.10008.5.1.4.1.1.88.34',
    },
    guid: () => DicomMetaDictionary.uid(),
    sortStudyInstances: list => list,
    sortDisplaySetsCopy: list => [...list],
  },
  classes: {
    ImageSet: class {},
    MetadataProvider: { getUIDsFromImageID: id => ({ SOPInstanceUID: id.slice('test:'.length), frameNumber: 1 }) },
  },
  DicomMetadataStore: { getInstance: (_study, _series, sop) => instances.get(sop) },
  log: console,
};
const surroundings = {
  '@ohif/core': { ...ohif, default: ohif },
  '@cornerstonejs/adapters': adapters,
  'gl-matrix': glMatrix,
  '@ohif/extension-cornerstone': {
    Enums: { CORNERSTONE_3D_TOOLS_SOURCE_NAME: 'Cornerstone3DTools', CORNERSTONE_3D_TOOLS_SOURCE_VERSION: '0.1' },
  },
  '@cornerstonejs/core': core,
  '@ohif/i18n': { default: { t: text => text } },
  '@cornerstonejs/tools': tools,
  '@ohif/ui-next': {},
  '@ohif/core/src/contextProviders/SystemProvider': {},
};
const module = { exports: {} };
const code = readFileSync(resolve('@ohif/extension-cornerstone-dicom-sr'), 'utf8');
vm.compileFunction(code, ['exports', 'module', 'require'], { filename: 'dicom-sr.js' })(module.exports, module, name => surroundings[name]);
const extension = module.exports.default;

const corners = (id, points) => points.map(point => core.utilities.worldToImageCoords(id, point));

async function open(path) {
  const report = read(path);
  report.imageId = imageId(report);
  instances.set(report.SOPInstanceUID, report);
  const [handler] = extension.getSopClassHandlerModule(app);
  const [set] = handler.getDisplaySetsFromSeries([report]);
  displaySets.push(set);
  await set.load();
  added.length = 0;
  if (set.isRehydratable && request.early) { // the adapters of earlier versions of OHIF, which knew images by their UID alone
    const known = Object.fromEntries(set.measurements.map(each => [each.ReferencedSOPInstanceUID, each.imageId]));
    const state = adapters.adaptersSR.Cornerstone3D.MeasurementReport.generateToolState(report, known, core.metaData);
    for (const { annotation } of state.RectangleROI ?? []) added.push({ tool: annotation.metadata.toolName, annotation });
  } else if (set.isRehydratable) {
    module.exports.hydrateStructuredReport(app, set.displaySetInstanceUID);
  }
  const seen = {
    isRehydratable: set.isRehydratable,
    referenced: set.referencedImages.map(image => image.ReferencedSOPInstanceUID),
    shown: set.measurements.map(({ loaded, labels, imageId: id }) => ({ loaded, labels, imageId: id })),
    hydrated: added.map(({ tool, annotation }) => ({
      tool,
      label: annotation.data.label,
      finding: annotation.data.finding,
      image: annotation.metadata.referencedImageId,
      corners: corners(annotation.metadata.referencedImageId, annotation.data.handles.points),
    })),
  };
  return { seen, report, annotations: added.map(({ annotation }) => annotation) };
}

// The report as a reader stores it after moving, deleting, adding and renaming rectangles.
function correct({ report, annotations }, { image, edits, reader, path }) {
  const id = `test:${image}`;
  const world = ([x, y]) => core.utilities.imageToWorldCoords(id, [x, y]);
  const rectangle = ([x0, y0, x1, y1]) => [[x0, y0], [x1, y0], [x0, y1], [x1, y1]].map(world);
  const data = annotations.map(annotation => ({ ...annotation, data: { ...annotation.data } }));
  for (const [place, box] of Object.entries(edits.moved ?? {})) data[place].data.handles.points = rectangle(box);
  for (const [place, label] of Object.entries(edits.renamed ?? {})) data[place].data.label = label;
  const kept = data.filter((_, place) => !(edits.deleted ?? []).includes(place));
  for (const { box, label } of edits.added ?? []) {
    kept.push({
      annotationUID: DicomMetaDictionary.uid(),
      metadata: { toolName: 'RectangleROI', referencedImageId: id },
      data: { label, handles: { points: rectangle(box), textBox: { hasMoved: false } }, cachedStats: { [`imageId:${id}`]: { area: 1 } } },
    });
  }
  const { MeasurementReport } = adapters.adaptersSR.Cornerstone3D;
  const state = { [id]: { RectangleROI: { data: kept.map(each => ({ ...each, finding: each.data.finding, findingSites: [] })) } } };
  const { dataset } = MeasurementReport.generateReport(state, core.metaData, {
    SeriesDescription: 'Corrected', predecessorImageId: report.imageId, PersonName: reader,
  });
  writeFileSync(path, Buffer.from(dcmjs.data.datasetToDict(dataset).write()));
}

const images = paths => paths.map(path => {
  const instance = read(path);
  instances.set(instance.SOPInstanceUID, instance);
  displaySets.push({ displaySetInstanceUID: instance.SOPInstanceUID, images: [instance], StudyInstanceUID: instance.StudyInstanceUID });
});
images(request.images);
const results = [];
for (const path of request.reports) {
  const opened = await open(path);
  if (request.correction) correct(opened, request.correction);
  results.push(opened.seen);
}
process.stdout.write(JSON.stringify(results));
