/* What the C and the C++ test share. */
#ifndef LABELS_H
#define LABELS_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                            \
  do {                                                                                              \
    if (!(condition)) {                                                                             \
      fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, kdh_last_error()); \
      exit(1);                                                                                      \
    }                                                                                               \
  } while (0)

#endif
