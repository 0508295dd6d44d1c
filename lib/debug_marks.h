// Debug builds: which objects the program holds, so that a second free is reported at once.
#pragma once

namespace pagoda {

// Notes that the program holds / gave back the object. False: it held it already (a broken
// invariant), or it did not hold it (reported here).
bool debug_mark_held(const void *object);
bool debug_mark_freed(const void *object);

} // namespace pagoda
