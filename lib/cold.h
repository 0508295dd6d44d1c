// Advice for memory that is seldom looked at, <pagoda/cold.h>.
#pragma once

#include "hugepage/base.h"

#include <pagoda/cold.h>
