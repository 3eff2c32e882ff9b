// Which threads run the tasks.
#include "common.h"

// `team` is the process's GOMP_parallel, or null.
EXPORT int use_openmp(RunTeam team) {
  run_team = team;
  return 0;
}
