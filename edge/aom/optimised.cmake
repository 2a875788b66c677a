# libaom as in a release whatever the build type: unoptimised, one encode in a test takes a minute, and its asserts end the process.
string(APPEND CMAKE_C_FLAGS_DEBUG_INIT " -O3 -DNDEBUG")
string(APPEND CMAKE_CXX_FLAGS_DEBUG_INIT " -O3 -DNDEBUG")
