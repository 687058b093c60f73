/* A stand-in for libnvidia-ml.so.1 with the ABI of nvml.h: structs, versions and return codes.
 *
 * It knows up to four GPUs, each with up to two MIG instances, and answers what a test has set. It
 * checks what the real library checks (versions, handles, samples that were freed), and counts what
 * is open. Nothing is measured: its figures are made up.
 */
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7,
       LOST = 15, VERSION = 25 };
enum { GPUS = 4, PARTS = 2, SM_UTIL = 2, METRICS = 98, PROCESSES = 4 };
/* What a test may have a call return for a GPU instead of an answer. */
enum { HANDLE, UTILIZATION, POWER, ENERGY, GPM, METRIC, PROCESS, SHUTDOWN, CALLS };

typedef int nvmlReturn_t;
typedef struct device { int gpu, part, processes; unsigned pids[PROCESSES]; } device_t;
typedef struct sample { device_t *of; unsigned at; int freed; } sample_t;
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned version, isSupportedDevice; } nvmlGpmSupport_t;
typedef struct {
    unsigned metricId;
    nvmlReturn_t nvmlReturn;
    double value;
    struct { char *shortName, *longName, *unit; } metricInfo;
} nvmlGpmMetric_t;
typedef struct {
    unsigned version, numMetrics;
    sample_t *sample1, *sample2;
    nvmlGpmMetric_t metrics[METRICS];
} nvmlGpmMetricsGet_t;
typedef struct {
    unsigned pid;
    unsigned long long usedGpuMemory;
    unsigned gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

static device_t wholes[GPUS], parts[GPUS][PARTS];
static int returned[GPUS][CALLS], mig[GPUS], old[GPUS];
static int gpus, opened, samples, wrong;
static unsigned ticks;

/* -- what tests set and ask ------------------------------------------------------------------- */

void standin_reset(int count) {
    memset(wholes, 0, sizeof wholes);
    memset(parts, 0, sizeof parts);
    memset(returned, 0, sizeof returned);
    memset(mig, 0, sizeof mig);
    memset(old, 0, sizeof old);
    for (int gpu = 0; gpu < GPUS; gpu++) {
        wholes[gpu].gpu = gpu;
        wholes[gpu].part = -1;
        for (int part = 0; part < PARTS; part++) {
            parts[gpu][part].gpu = gpu;
            parts[gpu][part].part = part;
        }
    }
    gpus = count;
    opened = samples = wrong = 0;
}
void standin_return(int gpu, int call, int code) { returned[gpu][call] = code; }
void standin_cut(int gpu) { mig[gpu] = 1; }      /* into MIG instances */
void standin_old(int gpu) { old[gpu] = 1; }      /* older than Hopper */
void standin_process(int gpu, int part, unsigned pid) {
    device_t *device = part < 0 ? &wholes[gpu] : &parts[gpu][part];
    device->pids[device->processes++] = pid;
}
int standin_opened(void) { return opened; }
int standin_samples(void) { return samples; }
int standin_wrong(void) { return wrong; }        /* calls that would have crashed the real one */

static void __attribute__((constructor)) first(void) {
    const char *count = getenv("NVML_STANDIN_GPUS");
    standin_reset(count ? atoi(count) : 1);
}

/* -- the library ------------------------------------------------------------------------------ */

#define ASK(device, call) \
    if (opened < 1) { wrong++; return UNINITIALIZED; } \
    if (returned[(device)->gpu][HANDLE]) return returned[(device)->gpu][HANDLE]; \
    if (returned[(device)->gpu][call]) return returned[(device)->gpu][call]

nvmlReturn_t nvmlInitWithFlags(unsigned flags) { opened++; return OK; }
nvmlReturn_t nvmlShutdown(void) {
    if (opened < 1) { wrong++; return UNINITIALIZED; }
    opened--;
    return returned[0][SHUTDOWN];
}
const char *nvmlErrorString(nvmlReturn_t code) { return "an error that is not in the table"; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) { *count = gpus; return OK; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device) {
    if (index >= (unsigned)gpus) return INVALID;
    ASK(&wholes[index], HANDLE);
    *device = &wholes[index];
    return OK;
}
nvmlReturn_t nvmlDeviceGetName(device_t *device, char *name, unsigned length) {
    ASK(device, HANDLE);
    const char *known = device->part < 0 ? "NVIDIA Stand-in" : "NVIDIA Stand-in MIG 1g.10gb";
    if (length <= strlen(known)) return SMALL;
    strcpy(name, known);
    return OK;
}
nvmlReturn_t nvmlDeviceGetMigMode(device_t *device, unsigned *current, unsigned *pending) {
    ASK(device, HANDLE);
    if (old[device->gpu]) return NOT_SUPPORTED;
    *current = *pending = mig[device->gpu];
    return OK;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(device_t *device, unsigned *count) {
    *count = 7;
    return OK;
}
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(device_t *device, unsigned index, device_t **part) {
    ASK(device, HANDLE);
    if (index % 2 || index / 2 >= PARTS) return NOT_FOUND;   /* indexes have gaps */
    *part = &parts[device->gpu][index / 2];
    return OK;
}
nvmlReturn_t nvmlDeviceGetGpuInstanceId(device_t *device, unsigned *instance) {
    if (device->part < 0) return NOT_SUPPORTED;
    *instance = 7 + device->part;
    return OK;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(device_t *device, nvmlUtilization_t *rates) {
    ASK(device, UTILIZATION);
    if (mig[device->gpu]) return NOT_SUPPORTED;
    rates->gpu = 80 - 40 * device->gpu;
    rates->memory = 1;
    return OK;
}
nvmlReturn_t nvmlDeviceGetPowerUsage(device_t *device, unsigned *milliwatts) {
    ASK(device, POWER);
    if (device->part >= 0) return NOT_SUPPORTED;
    *milliwatts = 300000;
    return OK;
}
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(device_t *device, unsigned long long *millijoules) {
    ASK(device, ENERGY);
    if (device->part >= 0 || old[device->gpu]) return NOT_SUPPORTED;
    *millijoules = (1ULL << 33) + 60000ULL * ++ticks;       /* more than 32 bits hold */
    return OK;
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(
    device_t *device, unsigned *count, nvmlProcessInfo_t *infos) {
    ASK(device, PROCESS);
    unsigned room = *count;
    *count = device->processes;
    if (room < *count) return SMALL;
    for (unsigned at = 0; at < *count; at++) {
        memset(&infos[at], 0, sizeof infos[at]);
        infos[at].pid = device->pids[at];
        infos[at].usedGpuMemory = ~0ULL;                    /* not available */
    }
    return OK;
}

/* -- GPM -------------------------------------------------------------------------------------- */

nvmlReturn_t nvmlGpmQueryDeviceSupport(device_t *device, nvmlGpmSupport_t *support) {
    ASK(device, HANDLE);
    if (support->version != 1) { wrong++; return VERSION; }
    support->isSupportedDevice = !old[device->gpu];
    return OK;
}
nvmlReturn_t nvmlGpmSampleAlloc(sample_t **made) {
    if (opened < 1) { wrong++; return UNINITIALIZED; }
    *made = calloc(1, sizeof **made);
    samples++;
    return OK;
}
nvmlReturn_t nvmlGpmSampleFree(sample_t *sample) {
    if (opened < 1 || !sample || sample->freed) { wrong++; return INVALID; }
    sample->freed = 1;                                      /* kept, to notice a second use */
    samples--;
    return OK;
}
static nvmlReturn_t taken(device_t *of, sample_t *sample) {
    if (sample->freed) { wrong++; return INVALID; }
    sample->of = of;
    sample->at = ++ticks;
    return OK;
}
nvmlReturn_t nvmlGpmSampleGet(device_t *device, sample_t *sample) {
    ASK(device, GPM);
    if (old[device->gpu] || mig[device->gpu]) return NOT_SUPPORTED;
    return taken(device, sample);
}
nvmlReturn_t nvmlGpmMigSampleGet(device_t *device, unsigned instance, sample_t *sample) {
    ASK(device, GPM);
    if (device->part >= 0 || !mig[device->gpu] || instance - 7 >= PARTS) { wrong++; return INVALID; }
    return taken(&parts[device->gpu][instance - 7], sample);
}
nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *wanted) {
    if (wanted->version != 1) { wrong++; return VERSION; }
    sample_t *before = wanted->sample1, *after = wanted->sample2;
    if (before->freed || after->freed || before->of != after->of || before->at >= after->at) {
        wrong++;
        return INVALID;
    }
    ASK(after->of, GPM);
    for (unsigned at = 0; at < wanted->numMetrics; at++) {
        nvmlGpmMetric_t *metric = &wanted->metrics[at];
        metric->nvmlReturn = metric->metricId == SM_UTIL ? returned[after->of->gpu][METRIC] : INVALID;
        metric->value = metric->nvmlReturn ? 1e300 : 55.0 - 10 * after->of->part - 10;
        metric->metricInfo.unit = "%";
    }
    return OK;
}
