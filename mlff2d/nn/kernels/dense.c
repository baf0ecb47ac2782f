/* Dense layers of a few rows, with the products of matrix.c. */

/* y (rows, n) = x (rows, k) w + bias, or without. */
static void map(whole rows, whole k, const real *x, const real *w, const real *bias, whole n,
    real *y)
{
    if (!bias) memset(y, 0, rows * n * sizeof(real));
    for (whole r = 0; bias && r < rows; r++) memcpy(y + r * n, bias, n * sizeof(real));
    product(rows, k, x, w, n, y);
}

typedef __typeof__(__builtin_choose_expr(sizeof(real) == 4, (uint32_t)0, (uint64_t)0)) bits;
enum { SINGLE = sizeof(real) == 4, DIGITS = SINGLE ? 23 : 52, TERMS = SINGLE ? 8 : 14 };
static const real INVERSE_FACTORIAL[] = {1., 1., 1 / 2., 1 / 6., 1 / 24., 1 / 120., 1 / 720.,
    1 / 5040., 1 / 40320., 1 / 362880., 1 / 3628800., 1 / 39916800., 1 / 479001600.,
    1 / 6227020800.};

/* exp, written so that compilers take several numbers at once, as they do no call of a library. */
static inline real exponential(real x)
{
    const real magic = (real)1.5 * ((bits)1 << DIGITS), most = SINGLE ? 87 : 708;
    x = x < -most ? -most : x;
    x = x > most ? most : x;
    /* x = n ln 2 + f; the last digits of `shifted` are the whole number n. */
    real shifted = x * (real)1.4426950408889634 + magic, n = shifted - magic;
    real f = x - n * (real)0.693359375 + n * (real)2.1219444005469058e-4;
    real sum = INVERSE_FACTORIAL[TERMS - 1];
    for (int k = TERMS - 2; k >= 0; k--) sum = sum * f + INVERSE_FACTORIAL[k];
    bits power;
    memcpy(&power, &shifted, sizeof(real));
    power = (power + (SINGLE ? 127 : 1023)) << DIGITS;
    memcpy(&n, &power, sizeof(real));
    return sum * n;
}

/* SiLU, and its slope. */
static void silu(whole n, real *x, real *slopes)
{
    for (whole c = 0; c < n; c++) {
        real s = 1 / (1 + exponential(-x[c]));
        slopes[c] = s * (1 + x[c] * (1 - s));
        x[c] *= s;
    }
}

/* ln(1 + e^x) - ln 2, and its slope. */
static void softplus(whole n, real *x, real *slopes)
{
    for (whole c = 0; c < n; c++) {
        real size = x[c] < 0 ? -x[c] : x[c];
        real small = x[c] > 20 ? 0 : exponential(-size), s = 1 / (1 + small); /* as torch */
        /* ln(1 + small) = 2 artanh(small / (2 + small)) */
        real t = small / (2 + small), sum = 0;
        for (int k = SINGLE ? 7 : 16; k >= 0; k--) sum = sum * t * t + 1 / (real)(2 * k + 1);
        slopes[c] = x[c] < 0 ? 1 - s : s;
        x[c] = (x[c] < 0 ? 0 : x[c]) + 2 * t * sum - (real)0.6931471805599453;
    }
}
